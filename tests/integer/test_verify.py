"""A report says how equal model and program are, and a program that is wrong does not pass."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.integer.fixed import join, split

from .checks import normal, verified


class Network(nnx.Module):
    def __init__(self, *, hidden=12, seed=0):
        rngs = nnx.Rngs(seed)
        weights = lq.QuantSpec(bits=4, channel_axis=-1)
        signed, unsigned = lq.QuantSpec(bits=6, batch_axis=0), lq.QuantSpec(bits=4, signed=False, batch_axis=0)
        self.first = lq.QuantLinear(8, hidden, weights=weights, inputs=signed, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.second = lq.QuantLinear(hidden, 5, weights=weights, inputs=unsigned, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x))))


BATCHES = [normal(200, 8, seed=seed) for seed in range(3)]


def calibrated(**options):
    model = Network(**options)
    lq.calibrate(model, BATCHES[:1])
    model.eval()
    return model


@pytest.fixture(scope="module")
def model():
    return calibrated()


@pytest.fixture(scope="module")
def program(model):
    return lq.integer.lower(model, BATCHES[0])


@pytest.fixture(scope="module")
def report(model, program):
    return verified(model, program, *BATCHES[:2], BATCHES[2][:50])


def changed(program, op, name, change, which=0):
    """The program with one constant of its ``which``-th instruction of a kind changed."""
    steps = list(program.instructions)
    index = [number for number, step in enumerate(steps) if step.op == op][which]
    constants = dict(steps[index].constants)
    constants[name] = change(constants[name].copy())
    steps[index] = dataclasses.replace(steps[index], constants=constants)
    return dataclasses.replace(program, instructions=tuple(steps))


def test_every_sample_and_every_code_is_counted_once(report):
    assert report.samples == 450
    assert [(layer.path, layer.codes) for layer in report.layers] == [("first", 450 * 8), ("second", 450 * 12)]
    assert report.layers[0].equal_fraction == 1.0  # the input's codes are the model's to the bit
    assert report.equal_fraction == min(layer.equal_fraction for layer in report.layers)
    assert report.max_difference == max(layer.max_difference for layer in report.layers)
    assert report.top1_agreement >= 1 - report.tied_samples / report.samples
    assert report.own_difference <= report.max_difference
    assert report.own_equal_fraction >= report.equal_fraction
    assert report.own_unexplained == 0
    assert 0 <= report.max_logit_difference < 1


def test_the_table_names_every_layer_and_the_sample_count(report):
    lines = str(report).splitlines()
    assert lines[1].split() == ["layer", *2 * ["equal", "codes", "largest", "diff."]]
    assert [line.split()[0] for line in lines[2:4]] == ["first", "second"]
    assert "of 450 samples" in lines[-1] and "0 unexplained" in lines[-1]


def negated(codes):
    codes[np.unravel_index(np.abs(codes.astype(int)).argmax(), codes.shape)] *= -1
    return codes


def test_one_wrong_weight_of_the_first_layer_shows_in_the_codes_of_the_next(model, program):
    report = lq.integer.verify(model, changed(program, "constant", "codes", negated), BATCHES)
    assert report.layers[0].equal_fraction == 1.0
    assert report.own_equal_fraction == report.layers[1].own_equal_fraction < 0.99
    assert report.layers[1].equal_fraction < 0.99 and report.layers[1].max_difference > 1
    assert report.own_difference == report.layers[1].own_difference > 1
    assert report.own_unexplained == report.layers[1].own_unexplained > 0.01 * report.layers[1].codes


def test_one_wrong_weight_of_the_last_layer_leaves_classes_unexplained(model, program):
    report = lq.integer.verify(model, changed(program, "constant", "codes", negated, which=1), BATCHES)
    assert report.equal_fraction >= 0.999
    assert report.unexplained > 0 and report.top1_agreement < 1
    assert report.max_logit_difference > 0.05


def test_a_wrong_multiplier_shows(model, program):
    wrong = changed(program, "rescale", "multiplier0", lambda multiplier: multiplier // 2)
    assert lq.integer.verify(model, wrong, BATCHES).equal_fraction < 0.99


def test_a_wrong_input_scale_shows(model, program):
    wrong = changed(program, "encode", "scale", lambda scale: np.float32(scale * 1.01))
    report = lq.integer.verify(model, wrong, BATCHES)
    assert report.layers[0].equal_fraction < 1.0


def test_what_a_layer_was_handed_is_not_held_against_the_layer_itself(model, program):
    """Inputs in units twice too large: the first codes are far off, and the second layer still does what it should."""
    wrong = changed(program, "encode", "scale", lambda scale: np.float32(scale * 2))
    first, second = lq.integer.verify(model, wrong, BATCHES).layers
    assert first.own_difference == first.max_difference > 1
    assert second.max_difference > 1 >= second.own_difference
    assert second.equal_fraction < 0.9 and second.own_equal_fraction >= 0.999


def test_codes_that_differ_by_one_without_a_tie_do_not_excuse_a_class(model, program):
    """Every code of the second layer one too high: each differs by one only, and none of that is rounding."""
    shift, bias = bias_of(program)
    upper, lower = split(bias + (1 << shift))
    high = changed(changed(program, "rescale", "bias_high", lambda _: upper), "rescale", "bias_low", lambda _: lower)
    report = lq.integer.verify(model, high, BATCHES)
    assert report.max_difference == 1 and report.equal_fraction < 0.9
    assert report.tied_samples < 10
    assert report.own_difference == 1 and report.own_unexplained > 0.1 * report.layers[1].codes
    assert report.unexplained > 0


def bias_of(program) -> tuple[int, np.ndarray]:
    """The shift and the 64-bit bias of the first rescale."""
    step = next(step for step in program.instructions if step.op == "rescale")
    return step.attributes["shift"], join(step.constants["bias_high"], step.constants["bias_low"])


def test_the_model_of_other_weights_is_another_model(program):
    report = lq.integer.verify(calibrated(seed=1), program, BATCHES)
    assert report.equal_fraction < 0.99 and report.unexplained > 0


def test_a_program_of_other_layers_is_refused(model):
    other = lq.integer.lower(lambda x: lq.fake_quantize(x, jnp.float32(0.1), lq.QuantSpec(bits=4)), BATCHES[0])
    with pytest.raises(ValueError, match=r"`program` is not of this model: .* differ in first, quantizer, second"):
        lq.integer.verify(model, other, BATCHES)


def test_a_program_of_other_sizes_is_refused(program):
    with pytest.raises(
        ValueError, match=r"`program` is not of this model: .*'second' have shape \[200, 12\], not \[200, 7\]"
    ):
        lq.integer.verify(calibrated(hidden=7), program, BATCHES)


def test_a_model_in_training_mode_is_refused(program):
    model = calibrated()
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        lq.integer.verify(model, program, BATCHES)


@pytest.mark.parametrize("batches", [[], [np.zeros((0, 8), np.float32)]])
def test_nothing_to_verify_on_is_refused(model, program, batches):
    with pytest.raises(ValueError, match="`batches` must hold at least one sample to verify on, got none"):
        lq.integer.verify(model, program, batches)


def test_a_wrong_batch_is_told_what_is_right(model, program):
    with pytest.raises(ValueError, match=r"`x` must not contain NaN"):
        lq.integer.verify(model, program, [np.full((2, 8), np.nan, np.float32)])


def test_a_model_of_one_number_a_sample_is_verified():
    class One(nnx.Module):
        def __init__(self, model):
            self.model = model

        def __call__(self, x):
            return self.model(x)[:, 0]

    model = One(calibrated())
    program = lq.integer.lower(model, BATCHES[0])
    report = lq.integer.verify(model, program, BATCHES)
    assert report.unexplained == 0
