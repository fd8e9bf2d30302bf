"""Settings of the whole suite, made before JAX is imported: on the CPU, and the same examples on every CI run."""

import contextlib
import dataclasses
import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

from tests.short_run import ROOT, SHORT

gc.set_threshold(50_000, 50, 100)  # JAX holds millions of objects, and each collection walks them

hypothesis.settings.register_profile("default", deadline=None, max_examples=40)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# Compiled programs are kept between runs of the suite. In this process only: a test that kills a training run would
# leave half a file behind.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).resolve().parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def pytest_collection_modifyitems(items):
    """Files that train come first: started last, one of them would keep one process busy while the others wait."""
    long = {item.path for item in items if item.get_closest_marker("slow") or "train" in item.fixturenames}
    items.sort(key=lambda item: item.path not in long)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    output: str
    error: str


@pytest.fixture
def train(capsys, monkeypatch):
    """Runs ``train.py`` in this process: ``train(*arguments) -> Outcome``."""
    from lglsq_jax.commands.train import main

    return lambda *arguments: _outcome(capsys, lambda: main([str(a) for a in arguments], ROOT / "configs"))


@pytest.fixture
def command(capsys):
    """Runs ``python -m lglsq_jax`` in this process: ``command(*arguments) -> Outcome``."""
    from lglsq_jax.commands.runs import main

    return lambda *arguments: _outcome(capsys, lambda: main([str(a) for a in arguments]))


def _outcome(capsys, run) -> Outcome:
    capsys.readouterr()
    status = None
    try:
        status = run()
    except SystemExit as exit:  # after --help
        status = exit.code or 0
    said = capsys.readouterr()
    return Outcome(status, said.out, said.err)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a short finished run on the digits, not to be changed; ``said`` beside it: what it printed."""
    from lglsq_jax.commands.train import main

    folder = tmp_path_factory.mktemp("runs") / "finished"
    with (folder.parent / "said").open("w") as said, contextlib.redirect_stdout(said):
        assert main([*SHORT, "--watch", "--run-dir", str(folder)], ROOT / "configs") == 0
    return folder
