"""The command line: what commands print, and every mistake as one sentence with exit status 2."""

import dataclasses
import errno
import gzip
import importlib.metadata
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lglsq_jax as lq
from lglsq_jax.commands.train import main
from lglsq_jax.data.mock import mock_imagenet
from lglsq_jax.errors import UserError
from lglsq_jax.training import PretrainingConfig, TrainConfig, train_alone
from lglsq_jax.training.config import MeshConfig, as_dict
from lglsq_jax.training.folder import RunFolder, environment
from tests.short_run import ROOT, SHORT


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def idx_folder(folder: Path, *, size: int = 8, test_size: int = 8) -> Path:
    folder.mkdir()
    for part, count, side in (("train", 40, size), ("t10k", 20, test_size)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", np.zeros((count, side, side)))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % 4)
    return folder


def cut_images(folder: Path) -> Path:
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    return folder


def npz(path: Path, **changes) -> Path:
    labels = np.arange(40) % 4
    arrays = {
        "train_images": np.zeros((40, 8, 8, 1), np.uint8),
        "train_labels": labels,
        "test_images": np.zeros((20, 8, 8, 1), np.uint8),
        "test_labels": labels[:20],
    }
    np.savez(path, **{**arrays, **changes})
    return path


def missing_class(path: Path) -> Path:
    return npz(path, train_labels=np.array([0, 1, 3, 3] * 10))


def foreign(folder: Path) -> Path:
    folder.mkdir()
    (folder / "holiday.jpg").write_text("not ours")
    return folder


def images(folder: Path, change=lambda root: None) -> list:
    change(mock_imagenet(folder, classes=2, train=6, val=2, smallest=12, largest=16))
    small = ["--data.batch-size", 4, "--data.image-size", 8, "--data.crop-padding", 0, "--model.stem-stride", 2]
    return ["digits", "--data.source", "folder", "--data.path", folder, *small]


def damage(root: Path, files: str) -> None:
    for file in root.glob(files):
        file.write_bytes(file.read_bytes()[:150])


def without_files(root: Path, folder: str) -> None:
    for file in (root / folder).iterdir():
        file.unlink()


def npz_run(file: Path) -> list:
    return ["digits", "--data.source", "npz", "--data.path", file, "--data.batch-size", 10]


TRAIN_ERRORS = {
    "no config": (lambda tmp: [], "CONFIG must be given"),
    "unknown config": (lambda tmp: ["digts"], "did you mean digits"),
    "missing config file": (lambda tmp: [tmp / "mine.py"], "does not exist"),
    "flag before config": (lambda tmp: ["--seed", "1", "digits"], "CONFIG must come first"),
    "wrong flag": (lambda tmp: ["digits", "--quantized.epohcs", "3"], "did you mean --quantized.epochs"),
    "flag without value": (lambda tmp: ["digits", "--seed"], "must have a value"),
    "value of another kind": (lambda tmp: ["digits", "--quantized.epochs", "many"], "'many'"),
    "bits out of range": (lambda tmp: ["digits", "--quantized.weight-bits", "9"], "between 2 and 8, got 9"),
    "unknown method": (lambda tmp: ["digits", "--quantized.method", "lg_lsqq"], "did you mean 'lg_lsq'"),
    "a stream where nothing is added": (
        lambda tmp: ["digits", "--model.name", "ds_cnn", "--quantized.stream-bits", "8", "--run-dir", tmp / "new"],
        "`stream_bits` must be None for DSCNN, which has no residual additions",
    ),
    "an update that overflows": (
        lambda tmp: [
            *SHORT,
            *"--pretraining.learning-rate 1e10 --pretraining.weight-decay 1e30 --checkpoint-every 1 --run-dir".split(),
            tmp / "new",
        ],
        "the update of step 1 has made some that are not; the first parameter that is not finite is",
    ),
    "unknown network": (lambda tmp: ["digits", "--model.name", "resnet21"], "must be one of resnet8"),
    "learning rate": (lambda tmp: ["digits", "--pretraining.learning-rate", "nan"], "must be a finite number above 0"),
    "seed": (lambda tmp: ["digits", "--seed", "-1"], "`seed` must be"),
    "missing data folder": (lambda tmp: ["fashion_mnist", "--data.path", tmp / "nowhere"], "nowhere"),
    "missing data file": (lambda tmp: ["fashion_mnist", "--data.path", foreign(tmp / "f")], "train-images"),
    "truncated gzip": (
        lambda tmp: ["fashion_mnist", "--data.path", cut_images(idx_folder(tmp / "f"))],
        "train-images-idx3-ubyte.gz",
    ),
    "images of another shape": (
        lambda tmp: ["fashion_mnist", "--data.path", idx_folder(tmp / "f", test_size=9), "--data.batch-size", 10],
        "9",
    ),
    "label out of range": (
        lambda tmp: npz_run(npz(tmp / "d.npz", test_labels=np.full(20, 4))),
        "4",
    ),
    "negative label": (lambda tmp: npz_run(npz(tmp / "d.npz", train_labels=np.arange(-1, 39) % 4 - 1)), "-1"),
    "images of another count": (lambda tmp: npz_run(npz(tmp / "d.npz", test_labels=np.zeros(19, int))), "19"),
    "empty class": (lambda tmp: npz_run(missing_class(tmp / "d.npz")), "none of class 2"),
    "not an npz": (lambda tmp: npz_run(foreign(tmp / "f") / "holiday.jpg"), "holiday.jpg"),
    "class folder without images": (
        lambda tmp: images(tmp / "f", lambda root: without_files(root, "train/class_001")),
        "train/class_001 has no file",
    ),
    "class of one part only": (
        lambda tmp: images(tmp / "f", lambda root: shutil.rmtree(root / "val/class_000")),
        "class_000",
    ),
    "no class folders": (lambda tmp: images(tmp / "f", lambda root: shutil.rmtree(root)), "train/CLASS"),
    "all training images damaged": (
        lambda tmp: images(tmp / "f", lambda root: damage(root, "train/*/*")),
        "/train/class_00",
    ),
    "too few images for ImageNet": (
        lambda tmp: [*images(tmp / "f"), "--data.source", "imagenet"],
        "must be 1,000, as in ImageNet, got 2",
    ),
    "colours of digits": (lambda tmp: ["digits", "--data.color-jitter", "0.4"], "`color_jitter` must be 0.0"),
    "padding and crops": (lambda tmp: [*images(tmp / "f"), "--data.crop-padding", 1], "`crop_padding` must be 0"),
    "batch larger than the data": (lambda tmp: ["digits", "--data.batch-size", "2000"], "1437"),
    "run folder of something else": (lambda tmp: ["digits", "--run-dir", foreign(tmp / "f")], "other files"),
    "run folder that cannot be": (
        lambda tmp: ["digits", "--run-dir", foreign(tmp / "f") / "holiday.jpg"],
        "holiday.jpg",
    ),
    "start from nowhere": (lambda tmp: ["digits", "--pretraining.start-from", tmp / "no"], "does not"),
}


@pytest.mark.parametrize("case", TRAIN_ERRORS)
def test_a_mistake_with_train_is_one_sentence(case, train, tmp_path):
    arguments, expected = TRAIN_ERRORS[case]
    arguments = arguments(tmp_path)
    if arguments and "--run-dir" not in arguments:
        arguments += ["--run-dir", tmp_path / "run"]
    assert_one_sentence(train(*arguments), expected)


def assert_one_sentence(outcome, expected: str) -> None:
    assert outcome.status == 2
    assert outcome.error.startswith("error: ") and outcome.error.count("\n") == 1 and outcome.error.endswith("\n")
    assert expected in outcome.error
    assert "Traceback" not in outcome.error


@pytest.fixture
def copied(finished_run, tmp_path) -> RunFolder:
    """A finished run that a test may break."""
    return RunFolder(Path(shutil.copytree(finished_run, tmp_path / "copied")))


def corrupt_program(folder: RunFolder) -> None:
    data = bytearray(folder.program_file.read_bytes())
    data[len(data) // 2] ^= 1
    folder.program_file.write_bytes(data)


def cut_program(folder: RunFolder) -> None:
    folder.program_file.write_bytes(folder.program_file.read_bytes()[:1000])


def broken_config(folder: RunFolder) -> None:
    folder.config_file.write_text(folder.config_file.read_text()[:50])


def config_of_another_version(folder: RunFolder) -> None:
    fields = json.loads(folder.config_file.read_text())
    folder.config_file.write_text(json.dumps({**fields, "colour": "blue"}))


def another_model(folder: RunFolder) -> None:
    fields = json.loads(folder.config_file.read_text())
    fields["model"]["name"] = "resnet20"
    folder.config_file.write_text(json.dumps(fields))


RUN_ERRORS = {
    "corrupt integer file": ("evaluate", corrupt_program, "program.safetensors"),
    "truncated integer file": ("verify", cut_program, "program.safetensors"),
    "no integer file": ("verify", lambda folder: folder.program_file.unlink(), "lower"),
    "checkpoint of another model": ("lower", another_model, "of another model"),
    "no checkpoint": ("lower", lambda folder: shutil.rmtree(folder.path / "checkpoints"), "none yet"),
    "broken config": ("inspect", broken_config, "config.json must be JSON"),
    "config of another version": ("inspect", config_of_another_version, "has no field 'colour'"),
    "not a run": ("inspect", lambda folder: folder.config_file.unlink(), "is it a run?"),
    "missing folder": ("inspect", lambda folder: shutil.rmtree(folder.path), "does not"),
}


@pytest.mark.parametrize("case", RUN_ERRORS)
def test_a_mistake_with_a_run_is_one_sentence(case, command, copied):
    name, spoil, expected = RUN_ERRORS[case]
    spoil(copied)
    assert_one_sentence(command(name, copied.path), expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "COMMAND must be given first"),
        (["inspct", "run"], "did you mean inspect"),
        (["verify"], "RUN must be given"),
        (["inspect", "run", "--jsn"], "did you mean --json"),
    ],
    ids=str,
)
def test_a_mistake_with_a_command_is_one_sentence(arguments, expected, command):
    assert_one_sentence(command(*arguments), expected)


# tensorstore ends orbax's event loop at the first damaged leaf and may finish another one after that
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_named_by_the_commands_that_pass_over_it(command, copied):
    for file in (copied.path / "checkpoints" / "quantized").glob("*/state/**/d/*"):
        file.write_bytes(file.read_bytes()[:100])
    outcome = command("lower", copied.path)
    assert outcome.status == 2 and "warning: the checkpoint of step" in outcome.error
    assert "those that there are are damaged" in outcome.error
    outcome = command("inspect", copied.path)
    assert outcome.status == 0 and "is damaged" in outcome.error


def test_a_broken_promise_is_told_however_often_it_is_asked(train, copied):
    summary = json.loads(copied.summary_file.read_text())
    broken = {**summary, "promises_kept": False, "broken_promises": ["17 samples get another class"]}
    copied.summary_file.write_text(json.dumps(broken))
    for _ in range(2):
        outcome = train(*SHORT, "--run-dir", copied.path)
        assert outcome.status == 1 and "FAILED: " in outcome.error and "17 samples" in outcome.error


def test_a_start_that_was_killed_before_its_config_goes_on(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for name in ("run.lock", ".part-abcd"):
        (folder.path / name).touch()
    with folder.claimed(TrainConfig()):
        assert folder.config_file.exists() and folder.environment_file.exists()


def test_another_spelling_of_the_folder_to_start_from_is_the_same_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spelling in ("base", str(tmp_path / "base"), "./base"):
        with RunFolder(tmp_path / "run").claimed(TrainConfig(pretraining=PretrainingConfig(start_from=spelling))):
            pass
    with (
        pytest.raises(UserError, match="start_from"),
        RunFolder(tmp_path / "run").claimed(TrainConfig(pretraining=PretrainingConfig(start_from="other"))),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = (", "config.py, line 1: '(' was never closed"),
        ("import nupmy", "config.py imports nupmy, which is missing"),
    ],
)
def test_a_config_that_python_cannot_read_is_one_sentence(text, expected, train, tmp_path):
    (tmp_path / "config.py").write_text(text)
    assert_one_sentence(train(tmp_path / "config.py"), expected)


def test_a_list_of_configs_has_those_that_cannot_be_read_too(tmp_path, capsys):
    (tmp_path / "good.py").write_text('"""A good one."""')
    (tmp_path / "bad.py").write_text("x = (")
    assert main(["--list"], tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "bad   cannot be read: '(' was never closed (<unknown>, line 1)",
        "good  A good one.",
    ]


def test_texts_that_name_nothing_are_refused(train, command, tmp_path):
    assert_one_sentence(train("digits", "--run-dir", ""), "`--run-dir` must be a folder, got an empty text")
    (tmp_path / "study.txt").touch()
    assert_one_sentence(command("study", tmp_path / "study.txt", "--list"), "must be Python and end in .py")


def test_a_run_folder_of_another_config_is_refused_and_the_fields_are_named(train, finished_run):
    before = {file: file.read_bytes() for file in finished_run.glob("*.json*")}
    outcome = train(*SHORT, "--quantized.epochs", 3, "--seed", 7, "--run-dir", finished_run)
    assert_one_sentence(outcome, "quantized.epochs (2, now 3), seed (0, now 7)")
    assert {file: file.read_bytes() for file in finished_run.glob("*.json*")} == before


def test_a_run_to_start_from_has_a_head_for_the_classes_of_the_data(train, finished_run, tmp_path):
    data = ["--data.source", "npz", "--data.path", npz(tmp_path / "d.npz"), "--data.batch-size", 10]
    outcome = train(*SHORT, *data, "--pretraining.start-from", finished_run, "--run-dir", tmp_path / "run")
    assert_one_sentence(outcome, "head of the float network that the run of `start_from` has saved, 10, but npz has 4")


def test_a_run_to_start_from_may_be_of_other_devices(finished_run, tmp_path):
    copy, config = tmp_path / "of 8 devices", RunFolder.existing(finished_run)[1]
    shutil.copytree(finished_run, copy)
    there = dataclasses.replace(config, mesh=MeshConfig(data=8))
    RunFolder(copy).config_file.write_text(json.dumps(as_dict(there)))
    start = dataclasses.replace(config, pretraining=PretrainingConfig(epochs=2, start_from=str(copy)))
    top1 = json.loads((finished_run / "summary.json").read_text())["float"]["top1"]
    assert train_alone(start, tmp_path / "run", last="float") == top1


@pytest.mark.long
def test_a_run_on_damaged_images_goes_on_and_tells_of_them(train, tmp_path):
    def spoil(root):
        damage(root, "train/class_000/*_00002.JPEG")

    small = ["--pretraining.epochs", 1, "--pretraining.warmup-epochs", 0, "--quantized.epochs", 1]
    outcome = train(*images(tmp_path / "f", spoil), *small, "--quantized.warmup-epochs", 0, "--run-dir", tmp_path / "r")
    assert outcome.status == 0, outcome.error
    (warning,) = (line for line in outcome.error.splitlines() if "damaged" in line)
    assert warning.startswith("warning: the image ") and "train_00002.JPEG cannot be decoded" in warning
    lines = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert [line["damaged_images"] for line in lines if line["split"] == "test"] == [1, 1]


def test_a_run_folder_in_use_is_refused(train, finished_run):
    script = f"import fcntl, sys; f = open({str(finished_run / 'run.lock')!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
    script += "print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        assert_one_sentence(train(*SHORT, "--run-dir", finished_run), "in use by another process")
        other.stdin.close()


def test_a_file_system_without_locks_is_named(train, tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    assert_one_sentence(train(*SHORT, "--run-dir", tmp_path / "run"), "cannot lock the run folder")


def test_a_full_disk_while_saving_is_one_sentence(tmp_path):
    """A limit on the size of files stands for the full disk: config and metrics fit, a checkpoint does not."""

    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": "", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    limited = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh"]  # blocks of 512 bytes, in some shells of 1024
    done = subprocess.run(
        [*limited, sys.executable, ROOT / "train.py", *SHORT, "--run-dir", tmp_path / "run"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot save the checkpoint of step 4 to ") and "File too large" in line


def run_with_output(output, *words: str) -> subprocess.CompletedProcess:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "lglsq_jax", *words]
    return subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=buffered)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("words", [["--help"], ["inspect", "--help"]], ids=" ".join)
def test_a_full_disk_behind_standard_output_is_one_sentence(words):
    with open("/dev/full", "w") as full:
        done = run_with_output(full, *words)
    assert (done.returncode, done.stderr) == (2, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), ([], 2)], ids=str)
def test_a_pipe_that_nobody_reads_is_no_error_of_its_own(words, status):
    reading, writing = os.pipe()
    os.close(reading)
    done = run_with_output(writing, *words)
    os.close(writing)
    assert done.returncode == status and done.stderr.startswith("error: COMMAND must be given first" if status else "")
    assert done.stderr.count("\n") == (1 if status else 0)


def test_help_and_list_say_what_there_is(train, command):
    for arguments in (["--help"], ["--list"]):
        outcome = train(*arguments)
        assert outcome.status == 0 and "digits" in outcome.output and "fashion_mnist" in outcome.output
    outcome = train("digits", "--help")
    for text in ("--quantized.weight-bits INT", "Bits of the weights", "(default: 3)", "--run-dir"):
        assert text in outcome.output
    outcome = command("--help")
    assert outcome.status == 0
    assert all(name in outcome.output for name in ("lower", "verify", "evaluate", "inspect"))


def test_a_finished_run_shows_its_table_again(train, finished_run):
    outcome = train(*SHORT, "--run-dir", finished_run)
    assert outcome.status == 0
    assert "integer W3A3" in outcome.output and "finished before" in outcome.output


def test_commands_agree_with_the_summary(command, finished_run):
    summary = json.loads(RunFolder(finished_run).summary_file.read_text())
    top1 = json.loads(command("evaluate", finished_run, "--json").output)["top1"]
    assert top1 == {kind: summary[kind]["top1"] for kind in ("float", "fake_quantized", "integer")}
    verified = json.loads(command("verify", finished_run, "--json").output)
    assert {key: summary[key] for key in verified} == verified
    assert verified["samples"] == 360 and verified["unexplained"] == 0 and verified["promises_kept"]
    inspected = json.loads(command("inspect", finished_run, "--json").output)
    assert inspected["finished"] and inspected["step"] == summary["step"]
    assert len(inspected["params_sha256"]) == 64
    assert {"conv1", "fc"} <= {layer["path"] for layer in inspected["layers"]}
    assert "3 bits signed" in command("inspect", finished_run).output


def test_lower_makes_the_same_program_again(command, copied):
    before = copied.program_file.read_bytes()
    copied.program_file.unlink()
    fields = json.loads(command("lower", copied.path, "--json").output)
    assert copied.program_file.read_bytes() == before
    assert fields["bytes"] == len(before) and len(fields["layers"]) == 10


def test_a_program_that_is_not_the_network_fails_verification(command, copied):
    """Weights of another program in the file: verification must say so, and not with status 0."""
    program = lq.integer.load(copied.program_file)
    step = next(step for step in program.instructions if step.op == "constant" and step.path == "layer1/0/conv1")
    step.constants["codes"][...] = step.constants["codes"][::-1, ::-1]
    program.save(copied.program_file)
    outcome = command("verify", copied.path)
    assert outcome.status == 1 and "FAILED" in outcome.error


@pytest.mark.parametrize("words", [["train.py", "digits"], ["-m", "lglsq_jax", "inspect", "run"]], ids=lambda w: w[-2])
def test_a_python_without_the_packages_is_told_where_they_are(words):
    bare = [sys.executable, "-S", *words]  # -S: without site-packages
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the package ") and ". .venv/bin/activate" in done.stderr


def test_a_package_that_is_not_installed_is_said_to_be_so(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert set(environment()["packages"].values()) == {"not installed"}
