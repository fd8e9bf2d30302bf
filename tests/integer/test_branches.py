"""Branches of very different scales are shuffled, split and joined without taking over each other's step."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.models import ShuffleUnit
from lglsq_jax.models.shufflenet import shuffle_channels

from .checks import SIGNED, UNSIGNED, assert_integers_only, assert_same_codes, fake, normal, verified

X = normal(6, 5, 5, 4)
EIGHT_BITS = lq.QuantSpec(bits=8, method=lq.methods.LSQ)
BRANCHES = {
    "one term each": lambda x: (100 * fake(x, 0.25, SIGNED), 0.013 * fake(x, 0.11, UNSIGNED) - 0.002),
    "several terms each": lambda x: (
        100 * (fake(x, 0.25, SIGNED) + 1.3 * fake(x, 0.11, UNSIGNED)),
        0.01 * (fake(x, 0.25, SIGNED) + 0.7 * fake(x, 0.11, UNSIGNED)),
    ),
    "one and several": lambda x: (
        100 * fake(x, 0.25, SIGNED),
        0.01 * (fake(x, 0.25, SIGNED) + 0.7 * fake(x, 0.11, UNSIGNED)),
    ),
}


def small_branch(branches, x):
    """Joins, shuffles, undoes the shuffle, and splits off the branch of small numbers."""
    large, small = branches(x)
    mixed = shuffle_channels(jnp.concatenate([large, small], axis=-1), 2)
    return jnp.split(shuffle_channels(mixed, 4), 2, axis=-1)[1]


@pytest.mark.parametrize("branches", BRANCHES.values(), ids=BRANCHES)
def test_a_small_branch_keeps_its_codes_beside_one_ten_thousand_times_larger(branches):
    step = 0.00037
    assert_same_codes(lambda x: fake(small_branch(branches, x), step, EIGHT_BITS), X, step)


@pytest.mark.parametrize("branches", BRANCHES.values(), ids=BRANCHES)
def test_a_joined_branch_is_as_precise_as_it_is_alone(branches):
    joined = lq.integer.lower(lambda x: small_branch(branches, x), X)
    alone = lq.integer.lower(lambda x: branches(x)[1], X)
    difference = np.abs(np.asarray(joined(X), np.float64) - np.asarray(alone(X), np.float64))
    assert difference.max() <= 2.0**-28 + 2 * alone.output_step  # two roundings to 30 bits instead of one


def test_codes_are_joined_as_they_are():
    program = lq.integer.lower(lambda x: fake(small_branch(BRANCHES["one term each"], x), 0.1, SIGNED), X)
    steps = program.instructions
    (join,) = (step for step in steps if step.op == "concatenate")
    assert [steps[number].op for number in join.inputs] == ["encode", "encode"]
    assert [step.op for step in steps].count("rescale") == 1, "rounded once, to the last codes"


class Units(nnx.Module):
    """A unit of two branches a factor of 100 apart, one that splits their channels again, and a linear layer."""

    def __init__(self, rngs):
        self.first = ShuffleUnit(4, 8, 2, rngs=rngs)
        self.second = ShuffleUnit(8, 8, 1, rngs=rngs)
        self.fc = nnx.Linear(8, 3, rngs=rngs)
        self.first.branch1[3].scale[...] *= 100
        for _, module in nnx.iter_modules(self):
            if isinstance(module, nnx.BatchNorm):
                module.bias[...] = jnp.asarray(normal(*module.bias.shape, seed=4)) * module.scale[...]

    def __call__(self, x):
        return self.fc(self.second(self.first(x)).mean((1, 2)))


def test_units_with_branches_a_hundred_times_apart_have_the_codes_of_the_model():
    images = normal(16, 8, 8, 4, seed=5)
    rule = lq.Rule(r".*", weights=lq.QuantSpec(4, channel_axis=-1), inputs=lq.QuantSpec(4))
    model = lq.quantize_model(Units(nnx.Rngs(0)), [rule])
    lq.calibrate(model, [images])
    model.eval()
    program = lq.integer.lower(model, images)
    assert_integers_only(program, images)
    verified(model, program, images)
