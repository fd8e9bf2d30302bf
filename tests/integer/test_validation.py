"""What ``load`` lets through runs: random programs of every operation pass, damaged and forged files do not."""

import dataclasses

import numpy as np
import pytest

import lglsq_jax as lq
from fuzz.program_files import fuzz, valid_files
from lglsq_jax.integer import Instruction, IntegerProgram
from lglsq_jax.integer.dimensions import Batch, decode
from lglsq_jax.integer.flow import check_flow
from lglsq_jax.integer.kernels import KERNELS
from lglsq_jax.integer.shapes import RULES
from lglsq_jax.integer.validation import OPERATIONS

from .random_programs import RandomProgram


def test_every_operation_has_a_row_and_a_rule():
    assert set(OPERATIONS) == {*KERNELS, "input", "encode"}
    assert set(RULES) == {*KERNELS, "encode"}


def test_files_that_were_damaged_or_forged_are_refused_or_run():
    said = []
    counts = fuzz(400, seed=7, say=said.append)
    assert not [line for line in said if "file" in line and "of seed" in line]
    outcomes = {outcome for _, outcome in counts}
    assert {"refused", "loaded"} <= outcomes and "failed" not in outcomes


def test_the_files_that_are_fuzzed_have_every_operation(tmp_path):
    found = set()
    for data in valid_files():
        (tmp_path / "program").write_bytes(data)
        found |= {step.op for step in lq.integer.load(tmp_path / "program").instructions}
    assert found == set(OPERATIONS)


def with_integer_input(drawn: RandomProgram) -> IntegerProgram:
    """A random program whose codes are an input of the model, as random programs have no constants to encode with."""
    program, dtype = drawn.program, drawn.codes[1]
    entry = dataclasses.replace(program.instructions[1], op="input", inputs=(), attributes={"index": 1, "dtype": dtype})
    return dataclasses.replace(
        program,
        instructions=(program.instructions[0], entry, *program.instructions[2:]),
        input_shapes=(*program.input_shapes, decode(list(entry.shape))),
        input_dtypes=("float32", dtype),
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_programs_come_back_from_a_file(seed, tmp_path):
    program = with_integer_input(RandomProgram(seed, 16))
    program.save(tmp_path / "program")
    loaded = lq.integer.load(tmp_path / "program")
    assert [step.op for step in loaded.instructions] == [step.op for step in program.instructions]


def step(op, inputs, shape, attributes, low=-128, high=127, **constants) -> Instruction:
    return Instruction(op, inputs, shape, low, high, attributes, constants)


CODES = step("input", (), ("b*1", 4, 4, 2), {"index": 0, "dtype": "int8"})
BY_CHANNEL = np.zeros((1, 1, 1, 2, 256), np.int8)

MISFITS = {
    "sum over the batch": (step("sum", (0,), (4, 4, 2), {"axes": [0]}), "is the batch"),
    "axis that is not there": (step("max", (0,), ("b*1", 4, 4), {"axes": [4]}), "are not axes of"),
    "axes twice": (step("reverse", (0,), ("b*1", 4, 4, 2), {"axes": [1, 1]}), "are not axes of"),
    "permutation of other axes": (
        step("transpose", (0,), ("b*1", 4, 4, 2), {"permutation": [0, 1, 2, 2]}),
        "does not order the axes",
    ),
    "reshape to other sizes": (step("reshape", (0,), ("b*1", 33), {"sizes": ["b*1", 33]}), "cannot take the shape"),
    "reshape without the batch": (step("reshape", (0,), (32,), {"sizes": [32]}), "cannot take the shape"),
    "take of what is not there": (
        step("take", (0,), ("b*1", 4, 4, 1), {"axis": 3, "indices": [2]}),
        "it takes number 2 of 2",
    ),
    "slice beyond the end": (
        step("slice", (0,), ("b*1", 5, 4, 2), {"starts": [0] * 4, "stops": ["b*1", 5, 4, 2], "strides": [1] * 4}),
        "does not lie within",
    ),
    "stride that cuts the batch": (
        step("slice", (0,), ("b*1", 4, 4, 2), {"starts": [0] * 4, "stops": ["b*1", 4, 4, 2], "strides": [2, 1, 1, 1]}),
        "does not divide the batch",
    ),
    "table with holes": (
        step("table", (0,), ("b*1", 4, 4, 2), {"low": -127, "dtype": "int8"}, table=BY_CHANNEL),
        "does not cover -128 to 127",
    ),
    "table of other channels": (
        step("table", (0,), ("b*1", 4, 4, 2), {"low": -128, "dtype": "int8"}, table=np.zeros((3, 256), np.int8)),
        "do not go together",
    ),
    "one value too few": (
        step(
            "staircase",
            (0,),
            ("b*1", 4, 4, 2),
            {"dtype": "int8"},
            thresholds=np.zeros((1, 3), np.int32),
            values=np.zeros((1, 3), np.int8),
        ),
        "3 thresholds need 4 values, got 3",
    ),
    "clip beyond the dtype": (step("clip", (0,), ("b*1", 4, 4, 2), {"low": 0, "high": 300}), "do not fit int8"),
    "result larger than memory": (
        step("broadcast", (0,), ("b*1", 4, 4, 2, 2**30), {"sizes": ["b*1", 4, 4, 2, 2**30], "axes": [0, 1, 2, 3]}),
        "elements",
    ),
    "window larger than the image": (
        step(
            "window_max",
            (0,),
            ("b*1", 1, 4, 2),
            {
                "dimensions": [1, 5, 1, 1],
                "strides": [1] * 4,
                "padding": [[0, 0]] * 4,
                "base_dilation": [1] * 4,
                "window_dilation": [1] * 4,
            },
        ),
        "a window of 5 does not fit an axis of 4",
    ),
    "product with what is no constant": (
        step("multiply", (0, 0), ("b*1", 4, 4, 2), {"code_maximum": 127}),
        "does not fit a kernel",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_an_instruction_that_does_not_fit_is_named(case):
    other, said = MISFITS[case]
    with pytest.raises(ValueError, match=rf"^instruction 1, {other.op}: ") as caught:
        check_flow([CODES, other], [(Batch(1), 4, 4, 2)], ["int8"])
    assert said in str(caught.value)


def test_floats_end_at_an_encode():
    image = step("input", (), ("b*1", 2), {"index": 0, "dtype": "float32"})
    turned = step("reverse", (0,), ("b*1", 2), {"axes": [1]})
    with pytest.raises(ValueError, match="its last instruction makes floats"):
        check_flow([image, turned], [(Batch(1), 2)], ["float32"])
    with pytest.raises(ValueError, match="it computes with floats"):
        check_flow([image, step("max", (0,), ("b*1",), {"axes": [1]})], [(Batch(1), 2)], ["float32"])
