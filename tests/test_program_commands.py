"""Commands on integer programs: what they write and print, and every mistake as one sentence with exit status 2."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.integer.export.onnx_file import save_onnx
from lglsq_jax.training.folder import RunFolder


@pytest.fixture
def program_file(finished_run, tmp_path) -> Path:
    """The program of a finished run, in a folder of its own."""
    return Path(shutil.copy(RunFolder(finished_run).program_file, tmp_path / "network.safetensors"))


def with_other_weights(file: Path) -> Path:
    """The same program with one weight of one layer moved by two."""
    program = lq.integer.load(file)
    codes = next(s for s in program.instructions if s.op == "constant" and s.path == "layer1/0/conv1").constants[
        "codes"
    ]
    codes.flat[7] += 2 if codes.flat[7] < 0 else -2
    other = file.with_name("other.safetensors")
    program.save(other)
    return other


def test_export_writes_beside_the_program(command, program_file):
    outcome = command("export", program_file, "--onnx", "--stablehlo", "--c-header", "--json")
    assert outcome.status == 0, outcome.error
    fields = json.loads(outcome.output)
    places = [Path(each["path"]) for each in fields["written"]]
    assert [each["format"] for each in fields["written"]] == ["onnx", "stablehlo", "c-header"]
    assert [place.name for place in places] == ["network.onnx", "network.stablehlo", "network.h"]
    assert [each["bytes"] for each in fields["written"]] == [place.stat().st_size for place in places]
    assert "lglsq_program network" in places[2].read_text()
    lq.integer.load(program_file).to_c_header(program_file.with_name("again.h"))
    assert program_file.with_name("again.h").read_bytes() == places[2].read_bytes()


def test_export_of_a_run_goes_to_its_integer_folder_or_where_it_is_told(command, finished_run, tmp_path):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    outcome = command("export", run, "--c-header")
    place = run / "integer" / "program.h"
    assert outcome.output == f"wrote {place}, {place.stat().st_size:,} bytes\n"
    assert command("export", run, "--onnx", "--onnx-form", "qdq", "--output", tmp_path / "mine.onnx").status == 0
    assert b"DequantizeLinear" in (tmp_path / "mine.onnx").read_bytes()
    wide = ["--onnx", "--onnx-form", "qdq", "--onnx-wide-sums", "--output", tmp_path / "wide.onnx"]
    assert command("export", run, *wide).status == 0
    assert (tmp_path / "wide.onnx").read_bytes() != (tmp_path / "mine.onnx").read_bytes()
    assert command("export", run, "--stablehlo", "--c-header", "--output", tmp_path).status == 0
    assert (tmp_path / "program.stablehlo").exists() and (tmp_path / "program.h").exists()


@pytest.mark.parametrize("form", ["integer", "qdq"])
def test_export_checks_the_onnx_model_on_all_test_images(form, command, finished_run, tmp_path):
    place = ["--onnx", "--onnx-form", form, "--output", tmp_path / "mine.onnx", "--check"]
    again = ["export", finished_run, *place]
    outcome = command(*again, "--json")
    assert outcome.status == 0, outcome.error
    check, summary = json.loads(outcome.output)["onnx_check"], json.loads((finished_run / "summary.json").read_text())
    assert check["samples"] == check["same_class"] == 360 and check["integers"] == (form == "integer")
    assert check["top1"] == check["program_top1"] == summary["integer"]["top1"]
    if form == "integer":
        assert check["equal_logits"] == 360 and check["max_logit_difference"] == 0
        text = command(*again).output.splitlines()[1]
        assert "on 360 test images: int32 logits equal to the program's for 360 (largest difference 0)" in text
    else:
        assert check["equal_logits"] >= 359 and "float32 logits within 1e-05 of" in command(*again).output


def test_export_of_a_model_that_is_not_the_program_fails_the_check(command, finished_run, tmp_path, monkeypatch):
    other = with_other_weights(Path(shutil.copy(RunFolder(finished_run).program_file, tmp_path / "network")))
    wrong = lq.integer.load(other)
    monkeypatch.setattr(
        lq.integer.IntegerProgram,
        "to_onnx",
        lambda self, path, form, wide_sums: save_onnx(wrong, path, form, 21, wide_sums=wide_sums),
    )
    outcome = command("export", finished_run, "--onnx", "--output", tmp_path / "mine.onnx", "--check")
    assert outcome.status == 1 and "FAILED: the int32 logits of " in outcome.error
    assert "of 360 samples differ" in outcome.error


def test_inspect_of_a_program_shows_its_layers_and_sums(command, program_file):
    program = lq.integer.load(program_file)
    fields = json.loads(command("inspect", program_file, "--json").output)
    assert fields["version"] == 3 and fields["bytes"] == program_file.stat().st_size
    assert fields["input_shapes"] == [["b*1", 8, 8, 1]] and fields["input_dtypes"] == ["uint8"]
    assert [layer["path"] for layer in fields["layers"]] == [layer.path for layer in program.layers]
    assert fields["layers"][0]["accumulator_high"] == program.layers[0].accumulator_high
    assert any("nearest" in (layer["requantizer"] or "") for layer in fields["layers"])
    assert fields["multiply_adds"] == sum(layer["multiply_adds"] for layer in fields["layers"])
    text = command("inspect", program_file).output
    assert "version 3" in text and "uint8 [n, 8, 8, 1]" in text and str(program.summary()) in text
    assert f"{program.layers[0].accumulator_high:,}" in text and "multiplier and shift" in text


def test_compare_says_which_layers_differ_and_in_what(command, program_file, finished_run):
    outcome = command("compare", program_file, finished_run)
    assert (outcome.status, outcome.output) == (0, "equal: every instruction and constant, 10 layers\n")
    other = with_other_weights(program_file)
    outcome = command("compare", program_file, other)
    assert outcome.status == 1 and outcome.error == ""
    size = lq.integer.load(program_file).weights["layer1/0/conv1"].size
    assert outcome.output.startswith(f"layer1/0/conv1: {100 / size:.3g} % of the weights, by at most 2\n")
    fields = json.loads(command("compare", program_file, other, "--json").output)
    (layer,) = (layer for layer in fields["layers"] if not layer["equal"])
    assert not fields["equal"] and layer["path"] == "layer1/0/conv1"
    assert np.isclose(layer["weights_differ"], 1 / size) and layer["largest_difference"] == 2
    assert fields["instruction_counts"] == {}


def damaged(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:500])
    return file


ERRORS = {
    "export of nothing": (lambda f: ["export", f], "--onnx, --stablehlo and --c-header must be given"),
    "export of no file": (lambda f: ["export", f.parent / "no", "--onnx"], "no', which does not"),
    "export of a folder that is no run": (lambda f: ["export", f.parent, "--onnx"], "is it a run?"),
    "export without a program": (lambda f: ["export", "--onnx"], "RUN must be given"),
    "form without a model": (lambda f: ["export", f, "--c-header", "--onnx-form", "qdq"], "must be given too"),
    "check without a model": (lambda f: ["export", f, "--c-header", "--check"], "must be given too"),
    "check without images": (lambda f: ["export", f, "--onnx", "--check"], "needs the test images of a run"),
    "wide sums of the integer form": (lambda f: ["export", f, "--onnx", "--onnx-wide-sums"], "must be given too"),
    "unknown form": (lambda f: ["export", f, "--onnx", "--onnx-form", "onx"], "onx"),
    "several formats in one file": (
        lambda f: ["export", f, "--onnx", "--c-header", "--output", f.parent / "one"],
        "must be a folder",
    ),
    "output nowhere": (lambda f: ["export", f, "--onnx", "--output", f.parent / "no/one"], "folder of `--output`"),
    "output into no folder": (lambda f: ["export", f, "--onnx", "--output", f"{f.parent}/no/"], "folder of `--output`"),
    "verify of a file": (lambda f: ["verify", f], "which is a file"),
    "output over the program": (lambda f: ["export", f, "--onnx", "--output", f], "another file than the program"),
    "unknown flag": (lambda f: ["export", f, "--onx"], "did you mean --onnx"),
    "damaged program": (lambda f: ["export", damaged(f), "--onnx"], "is not a usable integer program"),
    "inspect of a damaged program": (lambda f: ["inspect", damaged(f)], "is not a usable integer program"),
    "inspect of another file": (lambda f: ["inspect", __file__], "is not a usable integer program"),
    "compare with nothing": (lambda f: ["compare", f], "B must be given"),
    "compare with no file": (lambda f: ["compare", f, f.parent / "no"], "no', which does not"),
    "compare with a damaged program": (lambda f: ["compare", f, damaged(f)], "is not a usable integer program"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_with_a_program_is_one_sentence(case, command, program_file):
    arguments, expected = ERRORS[case]
    assert_one_sentence(command(*arguments(program_file)), expected)


def test_export_without_the_package_onnx_names_it(command, program_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_one_sentence(command("export", program_file, "--onnx"), "pip install")


def test_a_check_without_the_package_onnxruntime_names_it(command, finished_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    arguments = "export", finished_run, "--onnx", "--check", "--output", tmp_path / "mine.onnx"
    assert_one_sentence(command(*arguments), "pip install")


def assert_one_sentence(outcome, expected: str) -> None:
    assert outcome.status == 2
    assert outcome.error.startswith("error: ") and outcome.error.count("\n") == 1 and outcome.error.endswith("\n")
    assert expected in outcome.error and "Traceback" not in outcome.error
