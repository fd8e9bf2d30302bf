"""A saved program comes back to the bit; any other file is refused in one sentence, and nothing saved is lost."""

import hashlib
import json
import os
import pickle
import struct
import zlib

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import lglsq_jax as lq
from lglsq_jax.errors import UserError
from lglsq_jax.integer import storage
from lglsq_jax.integer.packing import narrowed

from .checks import normal

X = normal(8, 40)
WEIGHT_BITS = 3


class Network(nnx.Module):
    def __init__(self, rngs):
        weights = lq.QuantSpec(bits=WEIGHT_BITS, channel_axis=-1)
        inputs = lq.QuantSpec(bits=4, batch_axis=0)
        self.first = lq.QuantLinear(40, 200, weights=weights, inputs=inputs, rngs=rngs)
        self.second = lq.QuantLinear(200, 5, weights=weights, inputs=inputs, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


@pytest.fixture(scope="module")
def program():
    model = Network(nnx.Rngs(0))
    lq.calibrate(model, [X])
    model.eval()
    return lq.integer.lower(model, X)


@pytest.fixture
def saved(program, tmp_path):
    path = tmp_path / "program.safetensors"
    program.save(path)
    return path


def refused(path) -> str:
    """The one sentence that says what is wrong with a file."""
    with pytest.raises(UserError) as caught:
        lq.integer.load(path)
    message = str(caught.value)
    assert str(path) in message and "is not a usable integer program: " in message
    assert "\n" not in message and "Traceback" not in message
    return message.split("is not a usable integer program: ")[1]


def rewritten(path, change) -> None:
    """Changes the list of instructions of a saved program, with a checksum that fits again."""
    with safe_open(path, "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    header = json.loads(zlib.decompress(tensors["program"].tobytes()))
    change(header)
    tensors["program"] = np.frombuffer(zlib.compress(json.dumps(header).encode()), np.uint8)
    both = tensors["program"].tobytes() + tensors["constants"].tobytes()
    save_file(tensors, path, {**metadata, "sha256": hashlib.sha256(both).hexdigest()})


def step_of(header, op) -> list:
    return next(step for step in header["instructions"] if step[0] == op)


def test_a_program_comes_back_to_the_bit(program, saved):
    loaded = lq.integer.load(saved)
    assert (loaded.input_shape, loaded.input_dtype) == (program.input_shape, program.input_dtype)
    assert loaded.output_step == program.output_step
    assert len(loaded.instructions) == len(program.instructions)
    for ours, theirs in zip(program.instructions, loaded.instructions, strict=True):
        for field in ("op", "inputs", "shape", "low", "high", "path", "name", "attributes"):
            assert getattr(ours, field) == getattr(theirs, field)
        assert set(ours.constants) == set(theirs.constants)
        for name, array in ours.constants.items():
            assert array.dtype == theirs.constants[name].dtype
            np.testing.assert_array_equal(array, theirs.constants[name])
    np.testing.assert_array_equal(loaded(X), program(X))
    assert str(jax.make_jaxpr(loaded.integer_body)(loaded.encode(X))).count("f32") == 0


def test_saving_again_writes_the_same_bytes(saved):
    before = saved.read_bytes()
    lq.integer.load(saved).save(saved)
    assert saved.read_bytes() == before


def test_weights_take_their_true_bit_width(program, saved):
    with safe_open(saved, "numpy") as file:
        constants = file.get_tensor("constants").size
    true_bytes = (40 * 200 + 200 * 5) * WEIGHT_BITS / 8
    assert program.summary().weight_bytes == true_bytes
    others = sum(narrowed(a).nbytes for s in program.instructions if s.op != "constant" for a in s.constants.values())
    assert constants == true_bytes + others
    assert saved.stat().st_size < true_bytes + others + 2500  # the instructions, compressed, and the header


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(saved, fraction):
    whole = saved.read_bytes()
    part = saved.with_name("part")
    part.write_bytes(whole[: int(len(whole) * fraction)])
    assert any(said in refused(part) for said in ("bytes", "truncated", "not a whole safetensors file"))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_with_one_byte_changed_is_refused(saved, data):
    changed = bytearray(saved.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    other = saved.with_name("changed")
    other.write_bytes(changed)
    try:
        loaded = lq.integer.load(other)
    except UserError:
        refused(other)
    else:  # a byte that means nothing, such as a blank in the header
        np.testing.assert_array_equal(loaded(X), lq.integer.load(saved)(X))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_other_file_is_refused(saved, contents):
    other = saved.with_name("other")
    other.write_bytes(contents)
    refused(other)


def test_nothing_in_a_file_is_executed(tmp_path):
    class Exploit:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "exploit"
    path.write_bytes(pickle.dumps(Exploit()))
    refused(path)
    assert not (tmp_path / "executed").exists()


def test_tensors_of_something_else_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, path)
    assert refused(path) == f"its format is None, not {storage.FORMAT!r}"
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, path, {"format": storage.FORMAT, "version": "1"})
    assert refused(path) == "it does not hold the two byte arrays of a program"


def test_version_1_with_every_number_in_4_bytes_is_read(program, tmp_path, monkeypatch):
    newer, older = tmp_path / "newer", tmp_path / "older"
    program.save(newer)
    monkeypatch.setattr(storage, "narrowed", lambda numbers: numbers)
    monkeypatch.setattr(storage, "VERSION", 1)
    program.save(older)
    assert older.stat().st_size > newer.stat().st_size
    monkeypatch.undo()
    np.testing.assert_array_equal(lq.integer.load(older)(X), program(X))
    lq.integer.load(older).save(older)
    assert older.read_bytes() == newer.read_bytes()


def test_a_newer_version_is_refused(saved):
    with safe_open(saved, "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    save_file(tensors, saved, {**metadata, "version": "7"})
    assert refused(saved) == "its version is '7'; this release reads 1, 2, 3"


def put(op, **attributes):
    """A forgery that changes attributes of the first instruction of an operation."""
    return lambda header: step_of(header, op)[5].update(attributes)


def set_first_constant(size, offset=0):
    def change(header):
        step_of(header, "constant")[-1]["codes"][1:] = [size, offset]

    return change


FORGERIES = {
    "more codes than the file holds": (set_first_constant([10**6, 10**6]), "beyond the end of the file"),
    "sizes whose product is enormous": (set_first_constant([2**30, 2**30]), "beyond the end of the file"),
    "sizes beyond any array": (set_first_constant([10**30, 10**30]), "has shape"),
    "an offset beyond the end": (set_first_constant([40, 200], 10**9), "beyond the end of the file"),
    "a negative size": (set_first_constant([-1, 8]), "has shape"),
    "a fractional size": (set_first_constant([2.5]), "has shape"),
    "an unknown operation": (lambda h: step_of(h, "rescale").__setitem__(0, "eval"), "unknown operation 'eval'"),
    "a later input": (lambda h: step_of(h, "multiply").__setitem__(1, [99, 0]), "which are not all before it"),
    "a negative input": (lambda h: step_of(h, "multiply").__setitem__(1, [-1, 0]), "which are not all before it"),
    "a shift of 63": (
        lambda h: step_of(h, "rescale")[5].update(shift=63),
        "its 'shift' must be a whole number from 1 to 62, got 63",
    ),
    "no shift": (lambda h: step_of(h, "rescale")[5].pop("shift"), "it has no attribute 'shift'"),
    "shifts of terms": (lambda h: step_of(h, "rescale")[5].update(term_shifts=[99]), "its 'term_shifts' must be"),
    "a float in the body": (
        lambda h: step_of(h, "rescale")[-1]["multiplier0"].__setitem__(0, "float32"),
        "is float32, not",
    ),
    "a shape of words": (lambda h: step_of(h, "rescale").__setitem__(2, ["many"]), "a dimension must be"),
    "missing fields": (lambda h: step_of(h, "rescale").pop(), "does not have the fields"),
    "other fields": (lambda h: h.update(fields=["op"]), "its instructions have the fields"),
    "no instructions": (lambda h: h.update(instructions=[]), "it has no instructions"),
    "an infinite step": (lambda h: h.update(output_step=float("inf")), "no finite output step"),
    "a wide integer input": (lambda h: h.update(input_dtypes=["int32"]), "its input dtype 'int32' is not one of"),
    "more inputs than it reads": (
        lambda h: h.update(input_dtypes=["uint8"] * 2, input_shapes=[["b*1"]] * 2),
        "its input instructions read the inputs [0] of 2",
    ),
    "constants in a list": (
        lambda h: step_of(h, "rescale").__setitem__(-1, [1]),
        "its constants are [1], not an object",
    ),
    "a shift in words": (put("rescale", shift="17"), "its 'shift' must be a whole number from 1 to 62, got '17'"),
    "a shift that is true": (put("rescale", shift=True), "got True"),
    "a shift with a fraction": (put("rescale", shift=17.5), "got 17.5"),
    "a shift that is no number": (put("rescale", shift=float("nan")), "got nan"),
    "shifts of more terms than there are": (put("rescale", term_shifts=[0, 0, 0]), "it has 3 term shifts for 1 terms"),
    "a clip from high to low": (put("rescale", low=5, high=-5), "its 'low', 5, is above its 'high', -5"),
    "a clip beyond its dtype": (put("rescale", low=-500, dtype="int8"), "do not fit int8"),
    "a clamp of one number": (put("rescale", clamp=[[0, 0]]), "its 'clamp' must be"),
    "a clamp of large halves": (put("rescale", clamp=[[0, 0], [0, 2**32]]), "its 'clamp' must be"),
    "a clamp in disorder": (put("rescale", clamp=[[1, 0], [0, 5]]), "its 'clamp' must be"),
    "a dtype of a float": (put("rescale", dtype="float32"), "its 'dtype' must be one of"),
    "an attribute nobody knows": (put("rescale", speed=9), "a rescale has no attribute 'speed'"),
    "codes above their maximum": (put("multiply", code_maximum=3), "above its 'code_maximum', 3"),
    "bits of a word": (put("constant", bits=16), "its 'bits' must be a whole number from 2 to 8, got 16"),
    "bounds in disorder": (lambda h: step_of(h, "multiply").__setitem__(3, 2**30), "not in order"),
    "another shape of the result": (lambda h: step_of(h, "multiply").__setitem__(2, ["b*1", 3]), "not [1*n, 3]"),
    "a batch of none": (lambda h: step_of(h, "multiply").__setitem__(2, ["b*0", 200]), "a dimension must be"),
    "no multiplier": (lambda h: step_of(h, "rescale")[-1].pop("multiplier0"), "its constants are"),
    "weights in another shape": (set_first_constant([200, 40], 16), "has the shape [200, 40], not [40, 200]"),
    "constants that overlap": (
        lambda h: step_of(h, "rescale")[-1]["bias_high"].__setitem__(2, 0),
        "not behind the one before it",
    ),
    "bytes that nobody reads": (lambda h: h["instructions"].pop(), "of which its instructions use"),
    "input of another dtype": (put("input", dtype="float16"), "the model's input float32"),
    "nothing of a program": (lambda h: h.clear(), "it has no 'fields'"),
}


@pytest.mark.parametrize(("change", "said"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_file_is_refused(saved, change, said):
    rewritten(saved, change)
    assert said in refused(saved)


def test_instructions_that_inflate_without_end_are_refused(saved, monkeypatch):
    rewritten(saved, lambda header: header.update(note="a" * 10**6))
    assert "is longer than" in refused(saved)
    monkeypatch.setattr(storage, "_MOST_TEXT", 1000)
    assert "longer than 1000 bytes" in refused(saved)


@pytest.mark.parametrize("text", [b"[" * 10**5, b'{"a":' * 10**5, b"1" * 10**4, b"\xff", b"[]", b""], ids=len)
def test_instructions_that_are_no_list_of_them_are_refused(saved, text):
    with safe_open(saved, "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    packed = zlib.compress(text)
    tensors["program"] = np.frombuffer(packed, np.uint8)
    digest = hashlib.sha256(packed + tensors["constants"].tobytes()).hexdigest()
    save_file(tensors, saved, {**metadata, "sha256": digest})
    assert len(refused(saved)) < 300


def test_a_header_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "header is longer than the file" in refused(path)


def test_a_missing_file_is_the_system_s_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        lq.integer.load(tmp_path / "nothing")


def test_a_full_disk_leaves_the_earlier_file(program, saved, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        program.save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_missing_folder_is_an_error_and_leaves_nothing(program, tmp_path):
    with pytest.raises(FileNotFoundError):
        program.save(tmp_path / "nowhere" / "program")
    assert list(tmp_path.iterdir()) == []
