"""One of two processes of a program: process 0 saves and reads checkpoints, process 1 does nothing.

python two_processes.py FOLDER PORT NUMBER
"""

import sys
from pathlib import Path

import jax
import numpy as np

from lglsq_jax.training import Checkpoints

folder, port, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, number)
assert jax.process_count() == 2 and jax.process_index() == number
checkpoints = Checkpoints(folder)
if number == 0:
    state = {"here": jax.device_put(np.arange(4.0), jax.local_devices()[0]), "host": np.float32(2)}
    for step in range(4):
        checkpoints.save(step, state, {"step": step}, best_by=-step)
    assert checkpoints.steps == [3, 2, 0] and checkpoints.best == 0
    step, found, facts = checkpoints.restore(state)
    assert step == 3 and facts == {"step": 3} and found["host"] == 2
    np.testing.assert_array_equal(found["here"], np.arange(4.0))
else:
    for use in (
        lambda: checkpoints.save(0, {"x": np.zeros(1)}, {}),
        lambda: checkpoints.restore({}),
        lambda: checkpoints.best,
    ):
        try:
            use()
        except RuntimeError as error:
            assert "only process 0" in str(error)
        else:
            raise AssertionError("process 1 has touched the folder")
checkpoints.close()
print("done")
