"""Runs of two processes with two devices each: they stop together, go on elsewhere, and do not wait for ever."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lglsq_jax.training.watch import HUNG
from tests.short_run import ROOT, SHORT, free_port, simulated_devices

pytestmark = pytest.mark.long


def start(folder: Path, host: int | None, port: int, *flags, devices: int = 2) -> subprocess.Popen:
    """One process of two, or the only one."""
    others = [] if host is None else ["--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--process-id", host]
    command = [sys.executable, ROOT / "train.py", *SHORT, "--run-dir", folder, *others, *flags]
    environment = {**os.environ, "XLA_FLAGS": simulated_devices(devices)}
    return subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def steps(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_text().count('"split": "train"') if file.exists() else 0


def wait_for_steps(count: int, folder: Path, processes: list[subprocess.Popen]) -> None:
    while steps(folder) < count:
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.05)


def test_hosts_stop_together_and_the_run_goes_on_with_other_devices(tmp_path, command):
    folder, port = tmp_path / "run", free_port()
    both = [start(folder, host, port, "--checkpoint-every", 2) for host in range(2)]
    wait_for_steps(4, folder, both)
    both[1].send_signal(signal.SIGTERM)  # one of them is enough
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [143, 143], said
    assert all("which is saved" in error for _, error in said)
    found = json.loads(command("inspect", folder, "--json").output)
    assert found["step"] >= 4 and not found["finished"]
    alone = start(folder, None, port, "--checkpoint-every", 2, devices=1)
    output, error = alone.communicate(timeout=600)
    assert alone.returncode == 0, error
    assert f"going on from step {found['step']}" in output or found["step"] in (12, 24)  # where a phase ends
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["promises_kept"] and summary["step"] == 24
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 25))
    assert all(line["samples"] == 360 for line in lines if line["split"] == "test")


def test_a_host_that_hangs_ends_the_run_with_a_message(tmp_path):
    folder, port = tmp_path / "run", free_port()
    both = [start(folder, host, port, "--mesh.timeout", 60, "--pretraining.epochs", 500) for host in range(2)]
    try:
        wait_for_steps(20, folder, both)
        both[1].send_signal(signal.SIGSTOP)
        _, error = both[0].communicate(timeout=300)
        if both[0].returncode == HUNG:
            assert "nothing was finished for" in error and "a host or a device hangs" in error
        else:  # Python itself was kept from running: the last resort, or JAX, which misses the other host's heartbeat
            assert (both[0].returncode == 1 and "Timeout (" in error) or "stopped sending heartbeats" in error, error
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_an_error_of_the_first_host_reaches_the_others(tmp_path):
    folder, port = tmp_path / "run", free_port()
    folder.mkdir()
    (folder / "foreign.txt").write_text("not a run")
    both = [start(folder, host, port) for host in range(2)]
    for process in both:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 2, error
        assert "must be new or a run's" in error
