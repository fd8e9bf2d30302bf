"""Processes that share a study: signals reach each of them, and none outlives the one that started it."""

import os
import signal
import subprocess
import sys
import types

import pytest

from lglsq_jax.commands import study

SLEEPING = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture
def heard():
    """No signal is ignored, as SIGHUP is where the tests run below ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "during"), [(signal.SIGTERM, 2), (signal.SIGHUP, 2), (signal.SIGHUP, 3)])
def test_a_signal_ends_what_is_started_and_starts_no_more(number, during, monkeypatch):
    started = []

    def start(command, **options):
        started.append(subprocess.Popen(SLEEPING, **options))
        if len(started) == during:
            os.kill(os.getpid(), number)
        return started[-1]

    fake = types.SimpleNamespace(**{**vars(subprocess), "Popen": start})
    monkeypatch.setattr(study, "subprocess", fake)
    before = signal.getsignal(number)
    options = types.SimpleNamespace(processes=3, file="x.py", runs=None, only=None, known=None)
    assert study._in_processes(options) == 128 + signal.SIGTERM
    assert [process.returncode for process in started] == [-signal.SIGTERM] * during
    assert signal.getsignal(number) == before


def test_below_nohup_a_signal_to_hang_up_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with study._noted_signals() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


CHILD = """
from lglsq_jax.commands.orphans import stop_with_parent
stop_with_parent()
print("ready", flush=True)
import time
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
from lglsq_jax.commands.orphans import as_parent
subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=as_parent(), start_new_session=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_process_whose_parent_is_killed_ends_too():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.communicate(timeout=30) == ("", None)  # the child has closed its end


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_parent_that_was_gone_before_is_noticed():
    code = "from lglsq_jax.commands.orphans import stop_with_parent; stop_with_parent(); print('goes on')"
    gone = {**os.environ, "LGLSQ_JAX_PARENT": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=gone, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
