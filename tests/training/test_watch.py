"""A run that makes no progress is ended."""

import subprocess
import sys
import time

from lglsq_jax.training.watch import HUNG, Watch


def test_no_progress_ends_it_with_what_was_last_finished():
    said = []
    with Watch(0.2, said.append).watching() as watch:
        watch.progress("step 3")
        time.sleep(1)
    assert len(said) == 1 and "since step 3" in said[0] and "mesh.timeout" in said[0]


def test_progress_keeps_it_alive_and_the_end_ends_the_watch():
    said = []
    with Watch(0.5, said.append).watching() as watch:
        for _ in range(8):
            time.sleep(0.1)
            watch.progress("a step")
    time.sleep(0.8)
    assert not said
    with Watch(0, said.append).watching():
        time.sleep(0.1)
    assert not said


def test_a_process_that_hangs_ends_with_a_sentence_and_a_status_of_its_own():
    code = "from lglsq_jax.training.watch import Watch\nimport time\nwith Watch(0.2).watching(): time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == HUNG
    assert done.stderr.startswith("error: nothing was finished for") and done.stderr.count("\n") == 1
