"""A large batch is computed a few samples at a time, with the same result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.integer import portions

from .checks import SIGNED, assert_integers_only, fake, normal

KERNEL = normal(6, 4, seed=1)
X = normal(12, 5, 6)


def model(x):
    return (fake(x, 0.23, SIGNED) @ fake(KERNEL, 0.31, SIGNED)).reshape(-1, 4)  # 5 rows a sample


@pytest.mark.parametrize(("room", "size"), [(4 * 30 * 5, 4), (4 * 30, 1), (1, 1), (4 * 30 * 12, None), (2**25, None)])
def test_portions_give_the_same_logits(room, size, monkeypatch):
    monkeypatch.setattr(portions, "_AT_A_TIME", room)
    program = lq.integer.lower(model, X)
    assert portions.portion(program.instructions, 12) == size
    np.testing.assert_allclose(program(X), model(X), rtol=1e-5, atol=1e-6)
    assert_integers_only(program, X)
    has_loop = "scan" in str(jax.make_jaxpr(program.integer_body)(program.encode(X)))
    assert has_loop == (size is not None)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x: jnp.concatenate([fake(x, 0.23, SIGNED), fake(-x, 0.23, SIGNED)]),
        lambda x: fake(x, 0.23, SIGNED).swapaxes(0, 1),
        lambda x: jax.lax.rev(fake(x, 0.23, SIGNED), (0,)),
    ],
    ids=["two batches in a row", "the batch second", "the batch reversed"],
)
def test_what_mixes_samples_is_computed_at_once(mixing, monkeypatch):
    monkeypatch.setattr(portions, "_AT_A_TIME", 1)
    program = lq.integer.lower(mixing, X)
    assert portions.portion(program.instructions, 12) is None
    np.testing.assert_allclose(program(X), mixing(X), rtol=1e-5, atol=1e-6)


def test_several_inputs_are_split_together(monkeypatch):
    monkeypatch.setattr(portions, "_AT_A_TIME", 100)

    def two(x, y):
        return fake(x, 0.23, SIGNED) * 2 + fake(y, 0.31, SIGNED)

    y = normal(12, 5, 6, seed=4)
    np.testing.assert_allclose(lq.integer.lower(two, X, y)(X, y), two(X, y), rtol=1e-5, atol=1e-6)
