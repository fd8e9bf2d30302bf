"""The loss and what a run does with it: distillation, moving average, stops that name the layer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lglsq_jax.training.step import distillation
from tests.short_run import SHORT


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 8))
def test_distillation_is_the_divergence_in_float64(seed, temperature):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(2, 4, 5)) * 3

    def softmax(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(teacher / temperature), softmax(student / temperature)
    expected = temperature**2 * np.mean(np.sum(p * np.log(p / q), -1))
    found = distillation(jnp.float32(student), jnp.float32(teacher), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_teacher_learns_nothing():
    logits = jnp.ones((2, 3))
    assert not jax.grad(lambda teacher: distillation(logits, teacher, 2.0))(jnp.eye(2, 3)).any()


@pytest.mark.parametrize("phase", ["pretraining", "quantized"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(phase, train, command, tmp_path):
    outcome = train(*SHORT, f"--{phase}.learning-rate", "1e30", f"--{phase}.warmup-epochs", "0",
                    "--run-dir", tmp_path / "run")  # fmt: skip
    assert outcome.status == 2
    assert outcome.error.count("\n") == 1 and "smaller learning rate" in outcome.error
    assert "first parameter that is not finite is bn1/" in outcome.error or "of layer" in outcome.error
    found = json.loads(command("inspect", tmp_path / "run", "--json").output)
    assert not found["finished"] and found["step"] == (0 if phase == "pretraining" else 12)


def test_distillation_average_and_another_runs_float_network(train, finished_run, tmp_path):
    outcome = train(
        *SHORT, "--pretraining.start-from", finished_run, "--quantized.distillation", 0.5, "--quantized.ema-decay", 0.9,
        "--quantized.per-channel", "--quantized.method", "lsq_plus", "--quantized.weight-bits", 4,
        "--run-dir", tmp_path / "run",
    )  # fmt: skip
    assert outcome.status == 0, outcome.error
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["float"] == json.loads((finished_run / "summary.json").read_text())["float"]
    assert found["unexplained"] == 0 and found["fake_quantized"]["top1"] > 0.5
    assert not (tmp_path / "run" / "checkpoints" / "float").exists()
