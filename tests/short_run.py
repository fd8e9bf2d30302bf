"""The arguments of a run that takes seconds and still goes the whole way."""

import os
import socket
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHORT = (
    "digits --model.stem-stride 2 --data.batch-size 240 --pretraining.epochs 2 --quantized.epochs 2 "
    "--quantized.calibration-batches 1 --checkpoint-every 4"
).split()


def simulated_devices(count: int) -> str:
    """``XLA_FLAGS`` of a process with so many devices of a CPU, which compiles as this one does."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
