#!/usr/bin/env bash
# One machine with 8 devices: one process drives them all.   DATA=/data/imagenet WEIGHTS=/data/w.pth RUN=runs/r18 bash one_machine.sh
set -euo pipefail

DATA=${DATA:-/data/imagenet}
WEIGHTS=${WEIGHTS:-/data/resnet18-f37072fd.pth}
RUN=${RUN:-runs/imagenet_resnet18}

export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}

# 75: nothing was finished for mesh.timeout seconds; the same command goes on from the last checkpoint.
for attempt in 1 2 3 4 5; do
    status=0
    python train.py imagenet_resnet18 \
        --data.path "$DATA" --pretraining.weights "$WEIGHTS" --run-dir "$RUN" \
        --data.batch-size 256 --data.eval-batch-size 400 --data.workers 48 \
        --mesh.timeout 900 --checkpoint-every 1000 --skip-bad-steps 10 || status=$?
    [ "$status" -eq 75 ] || exit "$status"
    echo "attempt $attempt ended with 75, going on" >&2
done
exit 75
