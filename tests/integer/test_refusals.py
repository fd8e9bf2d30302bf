"""What cannot become integers is refused in a sentence that names the operation, the module and the line."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import lglsq_jax as lq
from lglsq_jax.integer import LoweringError

from .checks import SIGNED, UNSIGNED, fake, normal

X = normal(2, 6)


def quantized(x):
    return fake(x, 0.25, SIGNED)


class Block(nnx.Module):
    def __init__(self, function, rngs):
        self.linear = lq.QuantLinear(6, 4, weights=SIGNED, inputs=SIGNED, rngs=rngs)
        self.function = function

    def __call__(self, x):
        return self.function(self.linear(x))  # the line that messages show


class Model(nnx.Module):
    def __init__(self, function=nnx.relu):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([Block(function, rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.drop(self.blocks[0](x)))


def model_with(function=nnx.relu) -> Model:
    model = Model(function)
    lq.calibrate(model, [X])
    model.eval()
    return model


def line_of(text: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if text in line)


@pytest.mark.parametrize(
    ("function", "primitive"),
    [
        (functools.partial(jnp.cumsum, axis=-1), "cumsum"),
        (nnx.softmax, "exp|sub|reduce_max|reduce_sum|div"),
        (jnp.sort, "sort"),
    ],
    ids=["cumsum", "softmax", "sort"],
)
def test_an_unsupported_operation_names_itself_its_module_and_its_line(function, primitive):
    line = line_of("# the line that messages show")
    where = rf"module 'blocks/0' \(tests/integer/test_refusals\.py:{line}\)"
    with pytest.raises(LoweringError, match=rf"`({primitive})` in {where} has no integer form"):
        lq.integer.lower(model_with(function), X)


def test_the_message_lists_what_is_supported():
    with pytest.raises(LoweringError, match=r"supported on quantized values: abs, .*reduce_max, .*transpose"):
        lq.integer.lower(lambda x: jnp.sort(quantized(x)), X)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (
            lambda x: nnx.relu(quantized(x) - 0.1) * nnx.relu(fake(x, 0.1, UNSIGNED) - 0.15),
            "neither factor of a product is quantized; put lglsq_jax.Quantizer before at least one",
        ),
        (lambda x: quantized(x) / (fake(x, 0.1, UNSIGNED) + 1), "the divisor depends on the input"),
        (
            lambda x: nnx.sigmoid(nnx.relu(quantized(x) - 0.1) + fake(x, 0.3, SIGNED)).mean(1),
            "`logistic` of a value that is not quantized is used by something other than a quantizer",
        ),
        (lambda x: quantized(jnp.log(quantized(x))), "gives no number for a code that can occur"),
        (lambda x: nnx.sigmoid(x), "is the unquantized input|has no integer form"),
        (lambda x: 1 / quantized(x), "the divisor depends on the input"),
        (lambda x: quantized(x) / jnp.zeros(6), "it divides by zero"),
        (lambda x: quantized(x) @ normal(6, 3), "its second operand is not quantized; give the rule of its layer"),
        (lambda x: x @ fake(normal(6, 3), 0.3, SIGNED), "its first operand is the unquantized input"),
        (lambda x: (quantized(x) / 3 + 0.1).mean(0), "it computes with the batch size"),
        (lambda x: quantized(x).sum(0), "it reduces over the batch"),
        (lambda x: jnp.maximum(quantized(x), jnp.arange(6.0)), "its bounds differ between elements"),
        (lambda x: quantized(x).astype(jnp.bfloat16), "it converts to bfloat16; lower the float32 form"),
        (lambda x: jnp.pad(quantized(x), ((0, 0), (1, 1)), constant_values=-jnp.inf), "it pads with -inf"),
        (lambda x: jnp.concatenate([quantized(x), jnp.ones((x.shape[0], 2))], 1), "it joins constants with computed"),
        (lambda x: jnp.concatenate([quantized(x), x], 1), "it joins the unquantized input with quantized values"),
        (lambda x: (quantized(x) * jnp.arange(6.0)).reshape(-1), "vary along the axis that holds the batch"),
        (lambda x: quantized(x)[:, np.array([[0, 1], [2, 0]])][:, [0, 1], [1, 0]], "its indices depend on one another"),
        (lambda x: quantized(nnx.relu(x)), "computes with the unquantized input of the model; quantize it first"),
        (lambda x: x.mean(1), "it reads the unquantized input of the model"),
        (lambda x: (quantized(x) * jnp.arange(1.0, 7)) @ fake(normal(6, 3), 0.3, SIGNED), "varies over what it sums"),
        (lambda x: quantized(x) @ fake(normal(6, 3), np.arange(1, 7), ROWS), "scale of its kernel varies over what"),
        (lambda x: quantized(x) @ fake(normal(6, 3), 0.01, EIGHT), "the codes of its kernel do not fit int8"),
        (
            lambda x: jnp.einsum("nc,nd->ncd", quantized(x), quantized(x)),
            "has batch axes|neither operand is a constant",
        ),
        (lambda x: quantized(x + fake(x, 0.1, UNSIGNED)), "sum of unquantized values"),
    ],
)
def test_a_supported_operation_says_what_it_cannot_do(operation, reason):
    with pytest.raises(LoweringError, match=reason) as caught:
        lq.integer.lower(operation, X)
    assert re.search(r"the model itself \(tests/integer/(test_refusals|checks)\.py:\d+\)", str(caught.value))
    assert "\n" not in str(caught.value)


ROWS = lq.QuantSpec(bits=4, channel_axis=0, method=lq.methods.LSQ)
EIGHT = lq.QuantSpec(bits=8, signed=False, method=lq.methods.LSQ)


def test_an_accumulator_that_could_leave_int32_is_refused():
    kernel = np.ones((70000, 1), np.float32)

    def model(x):
        return fake(x, 0.01, EIGHT) @ fake(kernel, 1 / 127, lq.QuantSpec(bits=8))

    with pytest.raises(LoweringError, match=r"`multiply` in the model itself .*may reach 2266950000, more than int32"):
        lq.integer.lower(model, np.zeros((1, 70000), np.float32))


def test_a_model_without_a_quantizer_is_refused():
    with pytest.raises(LoweringError, match="depends on its input without a quantizer between; quantize its layers"):
        lq.integer.lower(lambda x: 2 * x + 1, X)
    with pytest.raises(LoweringError, match=r"its input is the unquantized|is not quantized|first operand"):
        lq.integer.lower(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), X)


def test_a_model_that_ignores_its_input_is_refused():
    with pytest.raises(LoweringError, match="the model's output does not depend on its input"):
        lq.integer.lower(lambda x: jnp.ones((x.shape[0], 3)), X)


@pytest.mark.parametrize("path", ["norm", "drop"])
def test_training_mode_is_refused_with_the_module(path):
    model = model_with()
    getattr(model, path).train()
    with pytest.raises(
        ValueError, match=rf"module '{path}' .*is in training mode; call model\.eval\(\) before lowering"
    ):
        lq.integer.lower(model, X)


def test_scales_that_are_not_set_are_refused_with_the_layer():
    model = Model()
    model.eval()
    with pytest.raises(ValueError, match=r"blocks/0/linear.*calibrate"):
        lq.integer.lower(model, X)


@pytest.mark.parametrize("scale", [float("nan"), 0.0, -1.0])
def test_a_scale_of_a_plain_function_must_be_finite_and_positive(scale):
    wrong = np.float32(scale)  # passed on under jit, where fake_quantize cannot see it
    with pytest.raises(ValueError, match=r"must be finite and positive, got"):
        lq.integer.lower(lambda x: jax.jit(lambda x, s: lq.fake_quantize(x, s, SIGNED))(x, wrong), X)


@pytest.mark.parametrize("example", [np.zeros((2, 6), np.int32), np.float32(1), np.zeros((2, 6), bool)])
def test_an_example_that_is_no_batch_of_numbers_is_refused(example):
    with pytest.raises(
        ValueError, match=r"`example_input` must (be a float, uint8 or int8 array|have a batch axis), got"
    ):
        lq.integer.lower(quantized, example)


def test_a_model_of_several_outputs_is_refused():
    with pytest.raises(ValueError, match=r"the model must return one array, got 2"):
        lq.integer.lower(lambda x: (quantized(x), quantized(2 * x)), X)


def test_a_kernel_with_nan_is_refused():
    kernel = normal(6, 3)
    kernel[2, 1] = np.nan
    with pytest.raises(LoweringError, match=r"the weights in the model itself .* must not contain NaN"):
        lq.integer.lower(lambda x: quantized(x) @ fake(kernel, 0.3, SIGNED), X)


def test_a_convolution_over_the_batch_is_refused():
    def model(x):
        kernel = fake(normal(3, 6, 4), 0.3, SIGNED)
        layout = ("HNC", "HIO", "HNC")
        return lax.conv_general_dilated(quantized(x)[None], kernel, (1,), "SAME", dimension_numbers=layout)

    program = lq.integer.lower(model, X)  # the batch stands second here, and the layout says so
    np.testing.assert_allclose(program(X), model(X), atol=1e-5)
    with pytest.raises(LoweringError, match=r"window spans the batch"):
        lq.integer.lower(lambda x: lax.reduce_window(quantized(x), 0.0, lax.add, (2, 1), (1, 1), "VALID") * 1.0, X)
