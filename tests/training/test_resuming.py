"""Killed at any moment and started again with the same command, a run ends with bitwise the same parameters."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from tests.short_run import ROOT, SHORT


def start(folder: Path, cache: Path) -> subprocess.Popen:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", *SHORT, "--run-dir", folder],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def inspect(command, folder: Path) -> dict:
    return json.loads(command("inspect", folder, "--json").output)


def last_step(folder: Path) -> int:
    lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    return sum('"split": "train"' in line for line in lines)


@pytest.fixture(scope="module")
def cache(tmp_path_factory, finished_run) -> Path:
    """Compiled programs, with those of a whole run among them: a copy, since a killed process may leave half a file."""
    assert finished_run.exists()
    copy = tmp_path_factory.mktemp("cache") / "jax"
    if Path(jax.config.jax_compilation_cache_dir).exists():
        shutil.copytree(jax.config.jax_compilation_cache_dir, copy)
    return copy


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "data_wait")} for line in lines]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_parameters(finished_run, cache, tmp_path, command):
    folder, chance = tmp_path / "killed", random.Random(0)
    for _ in range(2):
        process, before = start(folder, cache), last_step(folder)
        while process.poll() is None and last_step(folder) == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    else:
        process = start(folder, cache)
        output = process.communicate()
        assert process.returncode == 0, output
    wanted, found = inspect(command, finished_run), inspect(command, folder)
    assert found["params_sha256"] == wanted["params_sha256"]
    assert found["finished"] and found["step"] == wanted["step"]
    assert metrics(folder) == metrics(finished_run)


@pytest.mark.long
def test_twenty_kills_at_any_moment_change_nothing(finished_run, cache, tmp_path, command):
    """From the start of Python to the making of the integers: between steps, in a save, calibration, evaluation."""
    folder, chance, kills, at = tmp_path / "killed", random.Random(1), 0, set()
    while kills < 20 and not (folder / "summary.json").exists():
        process, before = start(folder, cache), last_step(folder)
        while kills % 3 and process.poll() is None and last_step(folder) == before:
            time.sleep(0.01)  # every third at any time after the start, the others after some progress
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, 0.6 if kills % 3 else 12))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        at.add(last_step(folder))
    assert kills >= 3 and len(at) >= 2
    process = start(folder, cache)
    output = process.communicate()
    assert process.returncode == 0, output
    assert inspect(command, folder)["params_sha256"] == inspect(command, finished_run)["params_sha256"]
    assert metrics(folder) == metrics(finished_run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM", marks=pytest.mark.long),
    ],
)
def test_a_polite_stop_saves_and_says_so(number, status, finished_run, cache, tmp_path, command):
    folder = tmp_path / "stopped"
    process = start(folder, cache)
    while process.poll() is None and last_step(folder) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode == status, error
    assert error.count("\n") == 1 and "saved" in error and "same command" in error
    found = inspect(command, folder)
    assert found["step"] > 0 and not found["finished"]
    if number == signal.SIGINT:  # once is enough to see that it goes on from there
        return
    process = start(folder, cache)
    output = process.communicate()
    assert process.returncode == 0, output
    assert inspect(command, folder)["params_sha256"] == inspect(command, finished_run)["params_sha256"]
