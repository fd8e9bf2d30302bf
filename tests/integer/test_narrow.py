"""A rescale in the form that int32 holds has the codes of the 64-bit one, for every sum that can occur."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lglsq_jax.integer.fixed import fixed_point_constants, split
from lglsq_jax.integer.kernels import KERNELS
from lglsq_jax.integer.narrow import narrow_constants, narrow_form, prepared
from lglsq_jax.integer.program import Instruction

from .test_nearest import computed, nearest, rescale_node, worth_trying


def wide_code(n: int, multiplier: int, bias: int, shift: int, low: int, high: int) -> int:
    """The definition of a rescale, in Python's integers."""
    whole, rest = divmod(n * multiplier + bias, 1 << shift)
    half = 1 << (shift - 1)
    code = whole + (rest > half or (rest == half and whole % 2 == 1))
    return min(max(code, low), high)


def run(form, shift: int, n) -> np.ndarray:
    attributes = {"shift": shift, "dtype": "int32", "split": form.split}
    return np.asarray(KERNELS["rescale"](attributes, form.constants, jnp.asarray(n, jnp.int32)))


@settings(max_examples=150)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(-(2**31) + 1, 2**31 - 1), st.integers(-(2**45), 2**45)), min_size=1, max_size=4),
    st.sampled_from([(0, 15), (-8, 7), (0, 255), (-2, 1), (3, 9)]),
    st.integers(1, 2**18),
    st.booleans(),
    st.integers(0, 30),
)
def test_where_there_is_a_form_it_is_the_rescale(shift, rows, codes, largest, positive, smaller):
    multiplier = np.array([row[0] >> smaller for row in rows], np.int32)
    bias = np.array([row[1] >> smaller for row in rows], np.int64)
    ends = (0 if positive else -largest, largest)
    form = narrow_form(multiplier, bias, shift, codes, ends)
    if form is None:
        return
    turns = [round(((code << shift) - int(b)) / int(m)) for m, b in zip(multiplier, bias, strict=True) if m
             for code in range(codes[0], codes[1] + 1)]  # fmt: skip
    tried = sorted(
        {min(max(turn + step, ends[0]), ends[1]) for turn in [*ends, 0, *turns] for step in (-2, -1, 0, 1, 2)}
    )
    found = np.broadcast_to(run(form, shift, np.array(tried)[:, None]), (len(tried), len(rows)))
    for row, n in enumerate(tried):
        for column in range(len(rows)):
            wanted = wide_code(n, int(multiplier[column]), int(bias[column]), shift, *codes)
            assert found[row, column] == wanted, (n, column)


@pytest.mark.parametrize(("largest", "scale", "parts"), [(2_000, 0.021, 1), (150_000, 5.3e-4, 2), (2**24, 1e-6, None)])
def test_small_sums_take_one_part_larger_ones_two_and_the_largest_neither(largest, scale, parts):
    """Both are nearest codes; what has no form stays as it was."""
    node = rescale_node(largest, [scale, 1.1 * scale, 0.0, -scale], [0.3, -2.0, 4.0, 8.0], 0, 15)
    fixed = narrow_constants(node, fixed_point_constants(node))
    assert (fixed is None) == (parts is None)
    if fixed is None:
        return
    form = narrow_form(fixed.multipliers[0], fixed.bias, fixed.shift, (0, 15), (-largest, largest))
    assert form is not None and (2 if form.split else 1) == parts
    for channel, (factor, bias) in enumerate(zip(node.constants["scale0"][0], node.constants["bias"][0], strict=True)):
        tried = worth_trying(float(factor), float(bias), 0, 15, largest)
        found = run(form, fixed.shift, np.array(tried)[:, None])[:, channel]
        wanted = [nearest(float(factor), float(bias), n, 0, 15) for n in tried]
        assert found.tolist() == wanted == [computed(fixed, n, channel, 0, 15) for n in tried]


@settings(max_examples=60)
@given(
    st.integers(1, 200_000),
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-300, 300)), min_size=1, max_size=5),
    st.sampled_from([(0, 15), (-8, 7), (0, 3), (-128, 127), (0, 255)]),
)
def test_narrow_constants_give_the_nearest_code(largest, rows, codes):
    low, high = codes
    scales, biases = zip(*rows, strict=True)
    node = rescale_node(largest, [float(np.float32(scale)) for scale in scales], list(biases), *codes)
    fixed = narrow_constants(node, fixed_point_constants(node))
    if fixed is None:
        return
    form = narrow_form(fixed.multipliers[0], fixed.bias, fixed.shift, codes, (-largest, largest))
    assert form is not None
    for channel, (scale, bias) in enumerate(zip(node.constants["scale0"][0], node.constants["bias"][0], strict=True)):
        tried = worth_trying(float(scale), float(bias), low, high, largest)
        found = np.broadcast_to(run(form, fixed.shift, np.array(tried)[:, None]), (len(tried), len(rows)))[:, channel]
        assert found.tolist() == [nearest(float(scale), float(bias), n, low, high) for n in tried]


def test_what_reads_a_fixed_point_stream_or_several_tensors_runs_as_it_is():
    high, low = split(np.array([5], np.int64))
    constants = {"multiplier0": np.array([333], np.int32), "bias_high": high, "bias_low": low}
    attributes = {"low": 0, "high": 15, "shift": 10, "clamp": None, "dtype": "int8"}
    entry = Instruction("input", (), ("b*1", 1), -100, 100, {"index": 0, "dtype": "int8"}, {})
    single = Instruction("rescale", (0,), ("b*1", 1), 0, 15, attributes, constants)
    double = dataclasses.replace(single, inputs=(0, 0), constants={**constants, "multiplier1": np.array([3], np.int32)})
    shifted = dataclasses.replace(single, attributes={**attributes, "term_shifts": [3]})
    clamped = dataclasses.replace(single, attributes={**attributes, "clamp": [[0, 7], [0, 9]]})
    wider = dataclasses.replace(single, shape=("b*1", 7))
    program = (entry, single, double, shifted, clamped, wider)
    found = prepared(program)
    assert "split" in found[1].attributes
    assert [new is old for new, old in zip(found, program, strict=True)] == [True, False, True, True, True, True]
