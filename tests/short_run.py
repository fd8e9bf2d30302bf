"""The arguments of a run that takes seconds and still goes the whole way."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHORT = (
    "digits --model.stem-stride 2 --data.batch-size 240 --pretraining.epochs 2 --quantized.epochs 2 "
    "--quantized.calibration-batches 1 --checkpoint-every 4"
).split()
