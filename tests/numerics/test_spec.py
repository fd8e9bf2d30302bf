"""QuantSpec: code ranges, what shares a scale, and what is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given

import lglsq_jax as lq

from .cases import SHAPE, grids, spec_of


@given(grids())
def test_ranges_counts_and_shapes_are_those_of_the_formulas(grid):
    spec = spec_of(grid)
    assert (spec.minimum, spec.maximum) == (grid.low, grid.high)
    assert spec.elements(SHAPE) == grid.count(SHAPE)
    assert spec.scale_shape(SHAPE) == (() if grid.channel_axis is None else (SHAPE[grid.channel_axis],))
    assert spec.code_dtype == (np.int8 if grid.signed else np.uint8)
    spanned = np.prod([SHAPE[axis] for axis in spec.axes_of_scale(len(SHAPE))], dtype=int)
    assert spanned * max(1, len(grid.groups(SHAPE))) == np.prod(SHAPE)


@given(grids())
def test_equal_specs_are_one_static_argument(grid):
    spec = spec_of(grid)
    assert spec == dataclasses.replace(spec) and hash(spec) == hash(dataclasses.replace(spec))
    assert spec != dataclasses.replace(spec, method=lq.methods.STE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.bits = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_defaults_are_four_words():
    spec = lq.QuantSpec(4)
    assert (spec.signed, spec.channel_axis, spec.batch_axis, spec.narrow_range) == (True, None, None, False)
    assert spec.method is lq.methods.LG_LSQ
    assert lq.QuantSpec(np.int64(3)).bits == 3


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"bits": 1}, ValueError, "`bits` must be between 2 and 8, got 1"),
        ({"bits": 9}, ValueError, "`bits` must be between 2 and 8, got 9"),
        ({"bits": 2.0}, TypeError, "`bits` must be a whole number between 2 and 8, got 2.0"),
        ({"bits": "4"}, TypeError, "`bits` must be a whole number between 2 and 8, got '4'"),
        ({"bits": True}, TypeError, "`bits` must be a whole number between 2 and 8, got a bool"),
        ({"signed": 1}, TypeError, "`signed` must be True or False, got 1"),
        ({"narrow_range": None}, TypeError, "`narrow_range` must be True or False, got None"),
        (
            {"signed": False, "narrow_range": True},
            ValueError,
            "`narrow_range` must be False for an unsigned quantizer, got True",
        ),
        ({"channel_axis": 1.0}, TypeError, "`channel_axis` must be a whole number or None, got 1.0"),
        ({"batch_axis": "0"}, TypeError, "`batch_axis` must be a whole number or None, got '0'"),
        (
            {"channel_axis": 0, "batch_axis": 0},
            ValueError,
            "`channel_axis` and `batch_axis` must differ, got 0 for both",
        ),
        ({"method": "lsq"}, TypeError, "`method` must be a GradientMethod such as methods.LG_LSQ, got 'lsq'"),
    ],
)
def test_a_field_out_of_range_is_one_sentence(fields, error, sentence):
    with pytest.raises(error) as caught:
        lq.QuantSpec(**{"bits": 4} | fields)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["channel_axis", "batch_axis"])
def test_an_axis_that_the_tensor_does_not_have_is_named(name):
    spec = lq.QuantSpec(4, **{name: 3})
    with pytest.raises(ValueError, match=f"`{name}` must be an axis of the tensor, which has 2, got 3"):
        spec.elements((2, 2))
