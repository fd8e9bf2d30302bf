"""Compiled programs are kept in the run's folder; a file that a killed process left half written is made anew."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lglsq_jax.training.cache import compiled_once
from tests.short_run import ROOT, SHORT, free_port

DAMAGE = {
    "half of it": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
}
SHORTEST = "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def unset(monkeypatch):
    """JAX as in a new process: compiled programs are kept nowhere."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    monkeypatch.setenv(SHORTEST.upper(), "0")
    before = {name: jax.config.values[name] for name in ("jax_compilation_cache_dir", SHORTEST)}
    for name, value in {"jax_compilation_cache_dir": None, SHORTEST: 0.0}.items():
        jax.config.update(name, value)
    reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


@pytest.fixture
def hits():
    """The names of JAX's events, as they come."""
    found: list[str] = []

    def listen(name, **_):
        found.append(name.rsplit("/", 1)[-1])

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)


def compute() -> float:
    return float(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x.T))(jnp.ones((3, 5))).sum())


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-cache"))


def test_programs_are_found_again(unset, hits, tmp_path):
    with compiled_once(tmp_path / "cache"):
        first = compute()
    made = entries(tmp_path / "cache")
    assert made and "cache_hits" not in hits
    with compiled_once(tmp_path / "cache"):
        assert compute() == first
    assert "cache_hits" in hits and entries(tmp_path / "cache") == made
    assert jax.config.values["jax_compilation_cache_dir"] is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_program_is_compiled_again_without_a_word(damage, unset, hits, tmp_path):
    with compiled_once(tmp_path):
        first = compute()
    made = entries(tmp_path)
    for file in made:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with compiled_once(tmp_path):
            assert compute() == first
        assert "cache_hits" not in hits and entries(tmp_path) == made
        with compiled_once(tmp_path):
            assert compute() == first
        assert "cache_hits" in hits


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(unset, tmp_path):
    (tmp_path / "file").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with compiled_once(tmp_path / "file" / "cache"):
            assert compute() != 0


def test_programs_that_are_kept_elsewhere_stay_there(tmp_path):
    elsewhere = jax.config.values["jax_compilation_cache_dir"]
    with compiled_once(tmp_path / "cache"):
        assert jax.config.values["jax_compilation_cache_dir"] == elsewhere is not None
    assert not (tmp_path / "cache").exists()


def found_by_two(*folders: Path) -> list[int]:
    """How many compiled programs each of two processes found in its folder."""
    script, port = ROOT / "tests" / "training" / "cache_of_two.py", free_port()
    environment = without_cache(PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu") | {SHORTEST.upper(): "0"}
    both = [
        subprocess.Popen(
            [sys.executable, script, folder, str(port), str(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for number, folder in enumerate(folders)
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return [int(output.split()[-1]) for output, _ in said]  # Gloo says something before


@pytest.mark.slow
def test_two_processes_keep_programs_in_a_folder_that_both_see(tmp_path):
    found_by_two(tmp_path, tmp_path)
    assert entries(tmp_path) and not list(tmp_path.glob(".seen-*"))
    assert found_by_two(tmp_path, tmp_path)[0] > 0  # a CPU's programs have names of their own on each process


@pytest.mark.slow
def test_two_processes_keep_none_where_one_does_not_see_the_folder(tmp_path):
    for _ in range(2):
        assert found_by_two(tmp_path / "here", tmp_path / "there") == [0, 0]
    assert not entries(tmp_path / "here") and not (tmp_path / "there").exists()


def without_cache(**extra: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name} | extra


@pytest.mark.long
def test_a_killed_run_with_a_damaged_program_goes_on_to_the_same_parameters(finished_run, tmp_path, command):
    folder, arguments = tmp_path / "run", [sys.executable, ROOT / "train.py", *SHORT, "--run-dir", tmp_path / "run"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=without_cache())
    while process.poll() is None and not list(folder.glob("checkpoints/*/[0-9]*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    largest = max(entries(folder / "cache"), key=lambda file: file.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(whole[: len(whole) // 2])
    done = subprocess.run(arguments, capture_output=True, text=True, env=without_cache(PYTHONWARNINGS="always"))
    assert done.returncode == 0 and "persistent" not in done.stderr, done.stderr
    assert abs(len(largest.read_bytes()) - len(whole)) < len(whole) / 10
    found, wanted = (json.loads(command("inspect", path, "--json").output) for path in (folder, finished_run))
    assert found["params_sha256"] == wanted["params_sha256"] and found["step"] == wanted["step"]
