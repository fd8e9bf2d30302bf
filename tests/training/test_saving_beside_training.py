"""A save returns when the arrays are copied; what is then written, kept and deleted is what was asked for."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lglsq_jax.errors import UserError
from lglsq_jax.training import Checkpoints
from lglsq_jax.training.step_folders import StepFolders


def state(step: int) -> dict:
    return {"w": np.full(3, step, np.float32)}


def opened(tmp_path, **settings) -> Checkpoints:
    return Checkpoints(tmp_path / "float", warn=pytest.fail, **settings)


def held(monkeypatch) -> threading.Event:
    """Makes every write wait for an event."""
    go, write = threading.Event(), StepFolders.write

    def slow(self, *arguments):
        assert go.wait(60)
        write(self, *arguments)

    monkeypatch.setattr(StepFolders, "write", slow)
    return go


def test_the_loop_goes_on_before_it_is_written(tmp_path, monkeypatch):
    go, checkpoints = held(monkeypatch), opened(tmp_path)
    checkpoints.save(1, state(1), {})
    assert not (tmp_path / "float" / "1").exists()
    go.set()
    checkpoints.wait()
    assert (tmp_path / "float" / "1" / "commit_success.txt").exists()
    checkpoints.close()


def test_buffers_may_be_donated_and_overwritten_after_it_returns(tmp_path, monkeypatch):
    go, checkpoints = held(monkeypatch), opened(tmp_path)
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    on_device, own, facts = jnp.zeros(1000), np.zeros(1000), {"damaged": [1]}
    view = np.asarray(step(jnp.full(1000, 6.0)))  # shares its memory with a buffer of the CPU
    checkpoints.save(1, {"device": on_device, "own": own, "view": view}, facts)
    for _ in range(3):
        on_device = step(on_device)
    own += 1
    facts["damaged"].append(2)
    go.set()
    leaves, facts = checkpoints.read(1)
    assert not leaves["device"].any() and not leaves["own"].any() and (leaves["view"] == 7).all()
    assert facts == {"damaged": [1]}
    checkpoints.close()


def test_one_save_is_on_its_way_at_most(tmp_path, monkeypatch):
    running, most, write = [], [], StepFolders.write

    def counted(self, step, *arguments):
        running.append(step)
        most.append(len(running))
        write(self, step, *arguments)
        running.remove(step)

    monkeypatch.setattr(StepFolders, "write", counted)
    checkpoints = opened(tmp_path)
    for step in range(4):
        checkpoints.save(step, state(step), {})
    assert checkpoints.steps == [3, 2] and most == [1, 1, 1, 1]
    checkpoints.close()


@pytest.mark.parametrize("then", ["save", "wait", "close"])
def test_a_failed_write_is_said_once_and_what_was_saved_stays(tmp_path, monkeypatch, then):
    checkpoints = opened(tmp_path)
    checkpoints.save(1, state(1), {})
    checkpoints.wait()

    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StepFolders, "write", full)
    checkpoints.save(2, state(2), {})
    assert checkpoints.steps == [1]  # waits, says nothing
    act = {"save": lambda: checkpoints.save(3, state(3), {}), "wait": checkpoints.wait, "close": checkpoints.close}[
        then
    ]
    with pytest.raises(UserError, match=r"step 2 .*: No space left on device; earlier checkpoints are kept"):
        act()
    monkeypatch.undo()
    checkpoints.close()
    checkpoints.save(4, state(4), {})
    assert checkpoints.steps == [4, 1]
    checkpoints.close()


def saved(tmp_path, scores: list, **settings) -> Checkpoints:
    checkpoints = opened(tmp_path, **settings)
    for step, score in enumerate(scores):
        checkpoints.save(step, state(step), {}, best_by=score)
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize(
    ("scores", "settings", "steps", "best"),
    [
        ([0.5, 0.9, 0.6, 0.7, 0.8], {}, [4, 3, 1], 1),
        ([0.5, 0.9, 0.6, 0.7, 0.8], {"keep_best": False}, [4, 3], 4),
        ([0.5, 0.9, 0.6, 0.7, 0.8], {"keep": 1}, [4, 1], 1),
        ([0.5, 0.9, 0.6, 0.9, 0.8], {"keep": 1}, [4, 3], 3),  # the newest of equals
        ([0.5, None, 0.4, float("nan"), None], {}, [4, 3, 0], 0),
        ([None, None, None, None], {}, [3, 2], None),
        ([0.1, 0.2], {"keep": 3}, [1, 0], 1),
        ([], {}, [], None),
    ],
)
def test_the_last_ones_and_the_best_are_kept_after_a_restart_too(tmp_path, scores, settings, steps, best):
    checkpoints = saved(tmp_path, scores, **settings)
    assert checkpoints.steps == steps and checkpoints.best == best
    checkpoints.close()
    again = opened(tmp_path, **settings)
    assert again.steps == steps and again.best == best
    if steps:
        assert again.restore(state(0))[0] == steps[0]
        again.save(9, state(9), {}, best_by=0.0)
        assert best is None or settings.get("keep_best") is False or again.best == best
    again.close()


def test_facts_are_those_that_were_given(tmp_path):
    checkpoints = saved(tmp_path, [0.5])
    assert checkpoints.read(0)[1] == {}
    checkpoints.close()


def test_none_kept_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be at least 1, got 0"):
        opened(tmp_path, keep=0)
