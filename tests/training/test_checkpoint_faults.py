"""Disk full, folder gone or read-only, files damaged or missing, killed: it is said, and the last good one is taken."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lglsq_jax.errors import UserError
from lglsq_jax.training import Checkpoints
from tests.short_run import ROOT, free_port
from tests.training.killed_while_saving import state_of

# tensorstore ends orbax's event loop at the first damaged leaf and may finish another one after that
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NOISE = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)


def state(step: int) -> dict:
    return {"conv1/kernel": NOISE + np.float32(step), "fc/kernel": NOISE - np.float32(step), "step": np.int32(step)}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A folder with the checkpoints of steps 1 and 2; not to be changed."""
    folder = tmp_path_factory.mktemp("two") / "float"
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(step, state(step), {"data": "abc", "step": step}, best_by=step)
    checkpoints.close()
    return folder


@pytest.fixture
def folder(two, tmp_path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "float"))


def restored(folder: Path) -> tuple[int, dict, list[str]]:
    """Returns the step, the facts and what was said; the arrays are checked."""
    said: list[str] = []
    checkpoints = Checkpoints(folder, said.append)
    step, found, facts = checkpoints.restore(state(0))
    for name, leaf in state(step).items():
        np.testing.assert_array_equal(found[name], leaf)
    assert facts == {"data": "abc", "step": step}
    checkpoints.save(3, state(3), {})  # it goes on
    assert checkpoints.steps[0] == 3
    checkpoints.close()
    return step, facts, said


def file_of_arrays(folder: Path) -> Path:
    """Returns the largest file of step 2: it holds a kernel, or both."""
    return max((folder / "2" / "state").rglob("d/*"), key=lambda file: file.stat().st_size)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1  # in the middle there is the border of the two kernels, where a file holds both
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


FAULTS = {"missing": Path.unlink, "truncated": truncate, "flipped": flip, "empty": lambda file: os.truncate(file, 0)}
NAMED = {
    "missing": "cannot be read: ",
    "truncated": "cannot be read: Requested byte range",
    "flipped": "are not those that were saved",
    "empty": "cannot be read: ",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_leaf_is_named_and_the_checkpoint_before_it_taken(folder, fault):
    FAULTS[fault](file_of_arrays(folder))
    step, _, said = restored(folder)
    assert step == 1 and len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith(f"the checkpoint of step 2 in {folder} is damaged (")
    assert "conv1.kernel" in said[0] or "fc.kernel" in said[0]
    assert NAMED[fault] in said[0] and said[0].endswith("; trying an earlier one")


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_file_is_damaged_the_state_is_whole(two, tmp_path, fault):
    steps = []
    files = [file.relative_to(two) for file in sorted((two / "2").rglob("*")) if file.is_file()]
    for number, file in enumerate(files):
        copy = Path(shutil.copytree(two, tmp_path / str(number)))
        FAULTS[fault](copy / file)
        step, _, said = restored(copy)
        assert bool(said) == (step == 1), (file, said)
        steps.append(step)
    assert {1, 2} == set(steps)  # orbax has some files that nothing depends on


def test_a_leaf_that_is_not_in_the_list_is_named(folder):
    file = folder / "2" / "state" / "_METADATA"
    listed = json.loads(file.read_text())
    listed["tree_metadata"] = {key: value for key, value in listed["tree_metadata"].items() if "fc.kernel" not in key}
    file.write_text(json.dumps(listed))
    step, _, said = restored(folder)
    assert step == 1 and "is damaged (fc.kernel is missing)" in said[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"abc"', '"abd"'), "its facts are not those that were saved"),
        (lambda text: text.replace('"sha256"', '"sha257"'), "its facts are not those that were saved"),
        (lambda text: text[:40], "its facts cannot be read: JSONDecodeError"),
        (lambda text: "[]", "its facts are not a JSON object"),
        (lambda text: "{}", "its facts lack the hashes"),
    ],
)
def test_changed_facts_are_seen(folder, change, message):
    file = folder / "2" / "facts" / "metadata"
    file.write_text(change(file.read_text()))
    checkpoints = Checkpoints(folder)
    assert checkpoints.best == 1
    checkpoints.close()
    step, _, said = restored(folder)
    assert step == 1 and message in said[0]


def test_checkpoints_without_a_hash_of_their_facts_are_still_read(folder):
    file = folder / "2" / "facts" / "metadata"
    facts = json.loads(file.read_text())
    del facts["facts_sha256"], facts["best_by"]
    file.write_text(json.dumps(facts))
    assert restored(folder)[0] == 2


@pytest.mark.parametrize("damage", ["no marker", "empty"])
def test_a_folder_that_was_not_written_to_its_end_is_told(folder, damage):
    if damage == "empty":
        shutil.rmtree(folder / "2")
        (folder / "2").mkdir()
    else:
        (folder / "2" / "commit_success.txt").unlink()
    step, _, said = restored(folder)
    assert step == 1 and said == [f"the checkpoint of step 2 in {folder} was not written to its end; it does not count"]
    assert not (folder / "2").exists()


def test_the_folder_is_removed_while_the_run_goes_on(folder):
    said: list[str] = []
    checkpoints = Checkpoints(folder, said.append)
    assert checkpoints.steps == [2, 1]
    shutil.rmtree(folder.parent)
    assert checkpoints.steps == [] and checkpoints.best is None
    checkpoints.save(3, state(3), {})
    assert checkpoints.steps == [3]
    assert said == [f"the folder of the checkpoints, {folder}, was removed; it is made again"]
    checkpoints.close()


def refused(folder: Path, message: str) -> None:
    checkpoints = Checkpoints(folder, pytest.fail)
    checkpoints.save(3, state(3), {})
    with pytest.raises(
        UserError, match=rf"^cannot save the checkpoint of step 3 to {folder}: {message}; earlier [^\n]*$"
    ):
        checkpoints.wait()
    checkpoints.close()


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "float").write_text("")
    refused(tmp_path / "float", "File exists")
    (tmp_path / "float").unlink()
    refused(Path(__file__) / "float", "Not a directory")


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a folder that even root cannot write to")
def test_a_read_only_folder():
    refused(Path("/sys/kernel/float"), "(Read-only file system|Operation not permitted|Permission denied)")


def test_a_damaged_checkpoint_in_a_read_only_folder(folder, monkeypatch):
    flip(file_of_arrays(folder))

    def read_only(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    said: list[str] = []
    checkpoints = Checkpoints(folder, said.append)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", read_only)
        assert checkpoints.restore(state(0))[0] == 1
    assert len(said) == 2 and said[1].endswith(f"cannot be moved to {folder}-damaged: Read-only file system")
    assert checkpoints.steps == [1]
    checkpoints.save(2, state(2), {})
    checkpoints.wait()
    assert checkpoints.steps == [2, 1] and checkpoints.restore(state(0))[0] == 2
    checkpoints.close()


@pytest.mark.parametrize("noticed", ["before", "while"])
def test_the_disk_is_full(folder, monkeypatch, noticed):
    if noticed == "while":  # a file system that cannot reserve: tensorstore meets the error itself

        def cannot_reserve(*arguments):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(os, "posix_fallocate", cannot_reserve)
    checkpoints = Checkpoints(folder, pytest.fail)
    large = {**state(3), "fc/kernel": np.random.default_rng(1).bytes(3 << 20)}
    large["fc/kernel"] = np.frombuffer(large["fc/kernel"], np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        checkpoints.save(3, large, {})
        with pytest.raises(UserError, match=r"step 3 .*: File too large; earlier checkpoints are kept"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert checkpoints.restore(state(0))[0] == 2
    checkpoints.save(3, large, {})
    assert checkpoints.steps == [3, 2]
    checkpoints.close()


def python(script: str, *arguments) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, ROOT / "tests" / "training" / script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_while_saving_it_goes_on_from_a_whole_checkpoint(tmp_path):
    last = 0
    for saves, seconds in ((0, 0.05), (2, 0.003), (2, 0.009), (2, 0.018)):
        process = python("killed_while_saving.py", tmp_path / "float", saves, seconds)
        output, error = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL, error
        said = [int(line) for line in output.split()]
        checkpoints = Checkpoints(tmp_path / "float")
        steps = checkpoints.steps
        last = max([last, *said])
        assert not steps or steps[0] in (last, last + 1)  # written, but not said any more
        for step in steps:
            loaded = checkpoints.read(step)
            assert not isinstance(loaded, str), loaded
            for name, leaf in state_of(step).items():
                np.testing.assert_array_equal(loaded[0][name], leaf)
        last = max([last, *steps])
        checkpoints.close()
    assert last >= 6


@pytest.mark.slow
def test_process_0_of_two_saves_and_reads_alone(tmp_path):
    port = free_port()
    processes = [python("two_processes.py", tmp_path / "float", port, number) for number in (0, 1)]
    for process in processes:
        output, error = process.communicate(timeout=600)
        assert process.returncode == 0 and output == "done\n", error
