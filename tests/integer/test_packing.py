"""Codes of 2 to 8 bits in bytes come back as they were, and take no more bytes than they must."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lglsq_jax.integer.packing import narrowed, pack, packed_size, unpack

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def codes_of_some_width(draw):
    bits, signed = draw(st.integers(2, 8)), draw(st.booleans())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    dtype = np.int8 if signed else np.uint8
    return bits, signed, draw(hnp.arrays(dtype, draw(SHAPES), elements=st.integers(low, high)))


@given(codes_of_some_width())
def test_codes_come_back_as_they_were(case):
    bits, signed, codes = case
    stream = pack(codes, bits, signed=signed)
    assert stream.dtype == np.uint8 and stream.shape == (packed_size(codes.size, bits),)
    found = unpack(stream, bits, codes.shape, signed=signed)
    assert found.dtype == codes.dtype
    np.testing.assert_array_equal(found, codes)


@given(codes_of_some_width())
def test_the_stream_is_one_long_number_with_the_first_code_lowest(case):
    bits, signed, codes = case
    fields = [int(code) + (2 ** (bits - 1) if signed else 0) for code in codes.ravel()]
    number = sum(field << (bits * index) for index, field in enumerate(fields))
    assert int.from_bytes(pack(codes, bits, signed=signed).tobytes(), "little") == number


@pytest.mark.parametrize(("bits", "signed", "code"), [(2, True, 2), (2, True, -3), (4, False, 16), (4, False, -1)])
def test_a_code_that_does_not_fit_is_refused(bits, signed, code):
    with pytest.raises(ValueError, match=f"codes must fit {bits} bits, got values from {min(code, 0)}"):
        pack(np.array([0, code], np.int16), bits, signed=signed)


@pytest.mark.parametrize("length", [2, 4])
def test_a_stream_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match=r"8 codes of 3 bits take 3 bytes, got uint8"):
        unpack(np.zeros(length, np.uint8), 3, (2, 4), signed=True)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5))
def test_whole_numbers_take_the_smallest_type_that_holds_them(numbers):
    found = narrowed(np.array(numbers, np.int32))
    assert found.tolist() == numbers
    assert found.itemsize == next(size for size in (1, 2, 4) if all(-(256**size) <= 2 * n < 256**size for n in numbers))


@pytest.mark.parametrize("numbers", [np.ones(3, np.uint32), np.ones(3, np.float32), np.zeros(0, np.int32)])
def test_other_numbers_stay_as_they_are(numbers):
    assert narrowed(numbers) is numbers
