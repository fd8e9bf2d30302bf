"""Whatever a phase compiles, it compiles in its first epoch: steps, evaluation, layer statistics, weight codes."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from benchmarks.soak import Probe, Sample, experiment, grown
from lglsq_jax.data import open_dataset, steps_per_epoch
from lglsq_jax.training import run_experiment


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_epoch_of_a_phase(tmp_path):
    epochs = 3
    config = experiment("resnet8", epochs)
    steps = steps_per_epoch(open_dataset(config.data), config.data)
    with Probe().watching() as probe, contextlib.redirect_stdout(None):
        run_experiment(config, tmp_path / "run", probe)
    assert len(probe.samples) == 2 * epochs * steps
    assert not probe.late(0, epochs * steps, steps)
    assert not probe.late(epochs * steps, 2 * epochs * steps, steps)


def test_a_probe_sees_what_is_compiled_late():
    with Probe().watching() as probe:
        for _ in range(4):
            jax.jit(lambda x: x + 1)(jnp.zeros(3))  # a new function each time
            probe.count_step()
    assert probe.late(0, 4, 1).total() >= 1
    assert not probe.late(0, 4, 3)


def test_growth_is_told_from_noise():
    flat = [Sample(i, 100 + i % 2, 10 + i % 3, 4) for i in range(40)]
    assert grown(flat) == []
    leaking = [Sample(i, 100 + i, 10 + i, 4) for i in range(40)]
    assert [text.split()[0] for text in grown(leaking)] == ["memory", "files"]
