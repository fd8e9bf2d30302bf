"""Saves one checkpoint after another until it is killed from within, some seconds after so many were saved.

python killed_while_saving.py FOLDER SAVES SECONDS
"""

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np

from lglsq_jax.training import Checkpoints


def state_of(step: int) -> dict:
    """Returns what step ``step`` must have saved."""
    return {f"layer{i}": np.random.default_rng([step, i]).normal(size=500 * (1 + i)) for i in range(4)}


def main(folder: Path, saves: int, seconds: float) -> None:
    """Goes on from the newest checkpoint and prints each step that is on disk."""
    checkpoints = Checkpoints(folder, lambda sentence: print(sentence, file=sys.stderr))
    restored = checkpoints.restore(state_of(0))
    step = 0
    if restored is not None:
        step, state, _ = restored
        for name, leaf in state_of(step).items():
            np.testing.assert_array_equal(state[name], leaf)
    last = step + saves
    while True:
        if step == last:
            threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        step += 1
        checkpoints.save(step, state_of(step), {"step": step}, best_by=-((step - 3) ** 2))
        checkpoints.wait()
        print(step, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
