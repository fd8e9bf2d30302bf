"""``python -m lglsq_jax {lower,verify,evaluate,inspect,report,export,compare} RUN``, ``study FILE``."""

import sys

from .commands.allocator import keep_freed_memory
from .commands.runs import main

if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(sys.argv[1:]))
