"""``python -m lglsq_jax {lower,verify,evaluate,inspect,report,export,compare} RUN``, ``study FILE``."""

import sys

from .commands.runs import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
