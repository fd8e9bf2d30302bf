"""The table of a program's layers counts bits, bytes and multiply-adds."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.integer.packing import narrowed

from .checks import SIGNED, UNSIGNED, fake, normal


class Network(nnx.Module):
    def __init__(self, rngs):
        three = lq.QuantSpec(bits=3, channel_axis=-1)
        self.conv = lq.QuantConv(2, 6, (3, 3), weights=three, inputs=lq.QuantSpec(8), rngs=rngs)
        self.depth = lq.QuantConv(
            6, 6, (3, 3), feature_group_count=6, weights=three, inputs=lq.QuantSpec(4, signed=False), rngs=rngs
        )
        self.fc = lq.QuantLinear(6, 5, weights=lq.QuantSpec(8), inputs=lq.QuantSpec(8, signed=False), rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.depth(nnx.relu(self.conv(x)))).mean((1, 2)))


@pytest.fixture(scope="module")
def program():
    model = Network(nnx.Rngs(0))
    x = normal(8, 4, 4, 2)
    lq.calibrate(model, [x])
    for path in ("conv", "depth"):  # every code occurs, so that the width is the quantizer's
        layer = getattr(model, path)
        layer.set_scales(weights=np.full(6, 0.01, np.float32))
    model.fc.set_scales(weights=np.float32(1e-4))
    return lq.integer.lower(model, x)


def test_each_layer_is_a_row_of_its_bits_shapes_and_work(program):
    conv, depth, fc = program.summary().rows
    assert [row.path for row in (conv, depth, fc)] == ["conv", "depth", "fc"]
    assert [row.op for row in (conv, depth, fc)] == ["convolve", "convolve", "multiply"]
    assert [row.weight_bits for row in (conv, depth, fc)] == [3, 3, 8]
    assert [row.input_bits for row in (conv, depth, fc)] == [8, 4, 8]
    assert [row.weight_shape for row in (conv, depth, fc)] == [(3, 3, 2, 6), (3, 3, 1, 6), (6, 5)]
    assert [row.output_shape for row in (conv, depth, fc)] == [(4, 4, 6), (4, 4, 6), (5,)]
    assert [row.weight_bytes for row in (conv, depth, fc)] == [-(-108 * 3 // 8), -(-54 * 3 // 8), 30]
    assert [row.multiply_adds for row in (conv, depth, fc)] == [16 * 6 * 18, 16 * 6 * 9, 30]


def test_accumulator_bits_hold_the_largest_sum_of_these_weights(program):
    for row in program.summary().rows:
        kernel = np.abs(program.weights[row.path].astype(int)).reshape(-1, row.weight_shape[-1]).sum(0).max()
        largest_code = 128 if row.path == "conv" else 2**row.input_bits - 1
        assert row.accumulator_bits <= int(kernel * largest_code).bit_length() + 1
        assert row.accumulator_bits > row.input_bits


def test_totals_are_the_sums_of_the_rows(program):
    summary = program.summary()
    assert summary.weight_bytes == sum(row.weight_bytes for row in summary.rows)
    assert summary.multiply_adds == sum(row.multiply_adds for row in summary.rows)
    tables = [step for step in program.instructions if step.op == "rescale"]
    assert (
        summary.constant_bytes
        == sum(narrowed(array).nbytes for step in tables for array in step.constants.values())
        > 0
    )


def test_it_prints_as_a_table(program):
    header, *rows, total, constants = str(program.summary()).splitlines()
    assert header.split() == ["layer", "op", "in", "weights", "shape", "output", "bytes", "multiply-adds", "sum"]
    assert [row.split()[0] for row in rows] == ["conv", "depth", "fc"]
    assert len({len(row) for row in rows}) == 1, "the last numbers end at the same column"
    assert "3x3x2x6" in rows[0] and "1,728" in rows[0]
    assert total.split() == ["total", "92", "2,622"]
    assert constants.startswith("multipliers and biases: ")


def test_rows_of_a_batch_count_for_each_sample():
    def model(x):
        return fake(x.reshape(-1, 3), 0.25, SIGNED) @ fake(normal(3, 5), 0.3, UNSIGNED)

    (row,) = lq.integer.lower(model, normal(2, 12)).summary().rows
    assert row.path == "" and str(lq.integer.lower(model, normal(2, 12)).summary()).splitlines()[1].startswith("(the")
    assert row.output_shape == (4, 5)
    assert row.multiply_adds == 4 * 5 * 3


def test_a_program_without_products_has_no_rows():
    program = lq.integer.lower(lambda x: jnp.maximum(fake(x, 0.25, SIGNED), 0), normal(2, 3))
    assert program.summary().rows == ()
    assert program.summary().multiply_adds == program.summary().weight_bytes == 0
