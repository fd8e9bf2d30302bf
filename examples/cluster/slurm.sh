#!/usr/bin/env bash
# Four machines with 8 GPUs each, one process a GPU.   sbatch examples/cluster/slurm.sh
#SBATCH --job-name=lglsq
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

DATA=${DATA:-/data/imagenet}
WEIGHTS=${WEIGHTS:-/data/resnet18-f37072fd.pth}
RUN=${RUN:-runs/imagenet_resnet18}

# Programs of several processes are kept only where all of them see the folder.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/lglsq-jax}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}

status=0
srun --kill-on-bad-exit=0 --wait=300 python train.py imagenet_resnet18 --distributed \
    --data.path "$DATA" --pretraining.weights "$WEIGHTS" --run-dir "$RUN" \
    --data.batch-size 1024 --quantized.learning-rate 0.04 --data.eval-batch-size 1024 --data.workers 6 \
    --mesh.timeout 900 --checkpoint-every 500 --skip-bad-steps 10 || status=$?

# 143: Slurm asked to stop, 300 seconds before the time is up; 75: a host hung. Both go on from the last checkpoint.
case "$status" in
    75 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"
