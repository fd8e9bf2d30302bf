"""Train a network, quantize it, and make its integers: ``python train.py CONFIG [--field VALUE ...]``."""

import sys
from pathlib import Path

from lglsq_jax.commands.allocator import keep_freed_memory
from lglsq_jax.commands.train import main

if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent / "configs"))
