#!/usr/bin/env bash
# A slice of a TPU pod: the same command on every host, which find each other.
#   TPU=my-slice ZONE=us-central2-b bash tpu.sh
set -euo pipefail

TPU=${TPU:?name of the TPU slice}
ZONE=${ZONE:?zone of the slice}
SOURCE=${SOURCE:-'~/lglsq_jax'}
DATA=${DATA:-/mnt/imagenet}
WEIGHTS=${WEIGHTS:-/mnt/resnet18-f37072fd.pth}
RUN=${RUN:-/mnt/runs/imagenet_resnet18}

gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "cd $SOURCE && \
    exec python train.py imagenet_resnet18 --distributed \
    --data.path $DATA --pretraining.weights $WEIGHTS --run-dir $RUN \
    --data.batch-size 1024 --quantized.learning-rate 0.04 --data.eval-batch-size 1024 --data.workers 48 \
    --batch-norm-groups 32 --mesh.timeout 900 --checkpoint-every 500 --skip-bad-steps 10"
