"""A stream ends quietly, wherever it is left."""

import os
import subprocess
import sys
import threading

import grain
import numpy as np
import pytest

from lglsq_jax.data.stream import Batches, Stream
from lglsq_jax.errors import UserError

LEFT_OPEN = """
import numpy as np
from lglsq_jax import data

if __name__ == "__main__":
    pixels, labels = np.zeros((8, 2, 2, 1), np.uint8), np.arange(8) % 2
    dataset = data.from_arrays("zeros", pixels, labels, pixels, labels)
    config = data.DataConfig(batch_size=4, eval_batch_size=2, workers={workers})
    training, evaluation = data.train_batches(dataset, config, seed=0), data.eval_batches(dataset, config)
    next(training), next(evaluation)
    print("done")
"""


def numbers(count: int = 100) -> grain.IterDataset:
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return grain.MapDataset.range(count).map(lambda number: {"number": np.array(number)}).to_iter_dataset(options)


def test_a_stream_gives_every_batch_in_order():
    assert [int(batch["number"]) for batch in Stream(numbers())] == list(range(100))


@pytest.mark.parametrize("taken", [0, 3])
def test_closing_ends_the_stream_and_its_threads(taken):
    before = set(threading.enumerate())
    stream = Stream(numbers())
    for _ in range(taken):
        next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_a_file_name_that_is_no_utf_8_is_in_the_sentence():
    name = os.fsdecode(b"caf\xe9.jpg")

    def fail(number):
        raise UserError(f"{name} cannot be decoded")

    batch = Batches(fail)(3)
    stream = Stream(grain.MapDataset.source([batch]).to_iter_dataset())
    with pytest.raises(UserError, match=r"^caf\\udce9.jpg cannot be decoded$"):
        next(stream)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_program_that_leaves_streams_open_ends_without_a_word(tmp_path, workers):
    program = tmp_path / "program.py"
    program.write_text(LEFT_OPEN.format(workers=workers))
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
