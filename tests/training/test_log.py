"""What a run shows and writes while it runs: progress line, table of layers, TensorBoard events."""

import contextlib
import io
import json
import types

import numpy as np
import pytest
import rich.console

from lglsq_jax.commands.train import read
from lglsq_jax.errors import UserError
from lglsq_jax.inspection import Histogram
from lglsq_jax.training.folder import RunFolder
from lglsq_jax.training.layer_table import layer_table, most_clipped
from lglsq_jax.training.log import RunLog
from lglsq_jax.training.pace import Pace
from lglsq_jax.training.phase import Phase
from tests.short_run import ROOT
from tests.training.events import events

LAYERS = {
    "conv1": {
        "weight_scale": 0.0125,
        "weight_clipped": 0.25,
        "weight_codes_used": 1.0,
        "weight_codes_flipped": 0.0625,
    },
    "fc": {
        "weight_scale": 1.0,
        "weight_clipped": 0.0,
        "input_scale": 2.0,
        "input_clipped": 0.5,
        "input_codes_used": 0.75,
    },
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pace_is_that_of_the_steps_and_the_time_left_that_of_everything():
    clock = Clock()
    pace = Pace(100, 32, clock)
    assert str(pace) == "" and pace.left is None
    clock.now = 50  # compiling
    pace.start(10)
    clock.now = 52
    pace.start(11)  # later steps start nothing
    pace.count(20)
    assert pace.images_per_second == 10 * 32 / 2
    clock.now = 60  # an evaluation, and what it compiles
    assert pace.left is not None and pace.left.total_seconds() == 80 * 10 / 10
    pace.rest()
    assert pace.left is None
    clock.now = 62
    pace.count(30)
    clock.now = 63  # an evaluation
    assert pace.images_per_second == 160
    assert str(pace) == "160 images/s, 0:00:21 left"
    pace.rest()
    clock.now = 64
    pace.count(40)
    assert str(pace) == "320 images/s, 0:00:12 left"
    pace.count(100)
    assert str(pace) == "320 images/s"


def test_the_table_of_layers():
    assert layer_table(LAYERS) == (
        "layer  weight scale  clipped  codes used  flipped  input scale  clipped  codes used\n"
        "conv1        0.0125  25.00 %       100 %   6.25 %                                  \n"
        "fc                1   0.00 %                                 2  50.00 %        75 %"
    )
    assert most_clipped(LAYERS) == "at most 50.0 % clipped (fc)"
    assert most_clipped({"": {"weight_clipped": 0.125}}) == "at most 12.5 % clipped (the model)"
    assert most_clipped({"fc": {"weight_clipped": 0.0}}) == most_clipped({}) == ""


STATUSES = (
    "5,230 images/s, 0:00:41 left, loss 0.213, top-1 91.0 %, at most 4.1 % clipped (layer2/0/conv1)",
    "5,230 images/s, 0:00:41 left, loss 0.213, top-1 91.0 %, at most 4.1 % clipped",
    "0:00:41 left, loss 0.213, top-1 91.0 %, at most 4.1 % clipped",
    "0:00:41 left, top-1 91.0 %, at most 4.1 % clipped",
    "top-1 91.0 %, at most 4.1 % clipped",
)


def test_a_narrower_line_gives_up_the_path_then_the_pace_and_keeps_the_clipped_share():
    phase = types.SimpleNamespace(pace=Pace(100, 32, Clock()), most_clipped="at most 4.1 % clipped (layer2/0/conv1)")
    phase.pace._rate, phase.pace._began, phase.pace._done = 5230, (0, -41.0), 50
    last = {"loss": 0.213, "accuracy": 0.91}
    assert tuple(Phase._statuses(phase, last)) == STATUSES
    phase.pace, phase.most_clipped = Pace(100, 32, Clock()), ""
    assert set(Phase._statuses(phase, last)) == {"loss 0.213, top-1 91.0 %", "top-1 91.0 %"}


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_on_a_terminal_progress_is_one_line_that_is_written_again(width, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = io.StringIO()
    console = rich.console.Console(file=shown, force_terminal=True, width=width, legacy_windows=False)
    with RunLog(RunFolder(tmp_path), console=console) as log:
        log.begin_phase("quantized", 0, 0, 40, resumed=False)
        log.advance(20, *STATUSES)
        log.say("an epoch's line")
        log.end_phase()
    text = shown.getvalue()
    assert f"quantized 20/40 {STATUSES[{60: 4, 80: 2, 120: 1, 160: 0}[width]]}" in text
    assert "an epoch's line\n" in text and "at most 4.1 % clipped" in text and "…" not in text
    assert ("━" in text) == (width >= 120)
    assert text.count("\x1b[1A") == 1  # one line up at the end, none before: it never takes a second line


def test_a_file_behind_a_terminal_gets_the_lines(tmp_path, capsys):
    """As ``train.py digits > log.txt``: the progress line is on the terminal, the lines are in the file."""
    shown = io.StringIO()
    console = rich.console.Console(file=shown, force_terminal=True, width=80, legacy_windows=False)
    with RunLog(RunFolder(tmp_path), console=console) as log:
        log.begin_phase("quantized", 0, 0, 40, resumed=False)
        log.say("an epoch's line")
        print("and another")
        log.end_phase()
    assert capsys.readouterr().out == "an epoch's line\nand another\n"
    assert "quantized 0/40" in shown.getvalue() and "line" not in shown.getvalue()


def test_elsewhere_progress_is_a_line_an_epoch(finished_run):
    said = (finished_run.parent / "said").read_text().splitlines()
    assert not any("images/s" in line for line in said if " epoch " not in line)
    epochs = [line for line in said if " epoch " in line]
    assert [line.split(":")[0] for line in epochs] == [
        "float epoch 1/2", "float epoch 2/2", "quantized epoch 1/2", "quantized epoch 2/2"
    ]  # fmt: skip
    assert all("images/s" in line for line in epochs)
    assert [" left" in line for line in epochs] == [True, False, True, False]
    assert ["% clipped (" in line for line in epochs] == [False, False, True, True]


def test_watch_prints_a_table_of_all_layers_an_epoch(finished_run):
    said = (finished_run.parent / "said").read_text()
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    tables = [
        {name: values for name, values in line.items() if isinstance(values, dict)}
        for line in lines
        if line["split"] == "layers"
    ]
    assert len(tables) == 2
    for layers in tables:
        assert layer_table(layers) in said
    _, given, _ = read(["digits"], ROOT / "configs")
    assert not given.watch


def test_events_hold_histograms_of_weights_and_input_codes_once_an_epoch(finished_run):
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    layers = [line for line in lines if line["split"] == "layers"]
    found = {
        (event.step, value.tag): value.histo
        for event in events(finished_run / "tensorboard")
        for value in event.summary.value
        if value.HasField("histo")
    }
    paths = [path for path, values in layers[0].items() if isinstance(values, dict)]
    assert set(found) == {
        (line["step"], f"{kind}/{path}") for line in layers for kind in ("weights", "input_codes") for path in paths
    }
    for line in layers:
        codes = found[line["step"], "input_codes/layer2/0/conv1"]
        counts = np.array(codes.bucket)
        assert list(codes.bucket_limit) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5] and codes.min == -0.5
        assert counts.sum() == codes.num and codes.num % 256 == 0
        assert (counts > 0).mean() == line["layer2/0/conv1"]["input_codes_used"]
        weights = found[line["step"], "weights/layer2/0/conv1"]
        assert weights.num == 3 * 3 * 16 * 32
        beyond = np.array([limit <= -4 or limit > 3.25 for limit in weights.bucket_limit])
        assert (
            abs(np.array(weights.bucket)[beyond].sum() / weights.num - line["layer2/0/conv1"]["weight_clipped"]) < 0.05
        )


def test_a_histogram_is_written_as_it_was_given(tmp_path):
    histogram = Histogram(np.array([-1.5, -0.5, 0.5, 1.5]), np.array([2, 0, 3]))
    with RunLog(RunFolder(tmp_path)) as log:
        log.begin_phase("quantized", 0, 0, 4, resumed=False)
        log.layers(4, "quantized", {"": {"weight_scale": 0.5}}, {"": {"weights": histogram}})
    (value,) = [v for e in events(tmp_path / "tensorboard") for v in e.summary.value if v.HasField("histo")]
    assert value.tag == "weights/model"
    assert (value.histo.min, value.histo.max, value.histo.num) == (-1.5, 1.5, 5)
    assert (value.histo.sum, value.histo.sum_squares) == (-2 + 3, 5)
    assert list(value.histo.bucket) == [2, 0, 3] and list(value.histo.bucket_limit) == [-0.5, 0.5, 1.5]


@pytest.mark.parametrize("full", ["metrics", "events"])
@pytest.mark.parametrize("steps", [1, 2000], ids=["noticed at the end", "noticed while training"])
def test_a_full_disk_is_one_sentence_wherever_it_is_noticed(steps, full, tmp_path):
    sink = open("/dev/full", "w") if full == "metrics" else open("/dev/full", "wb", buffering=0)
    with pytest.raises(UserError, match=r"cannot write .*: No space left"), RunLog(RunFolder(tmp_path)) as log:
        log.begin_phase("float", 0, 0, steps, resumed=False)
        assert log._file is not None and log._events is not None
        if full == "metrics":
            log._file.close()
            log._file = sink
        else:
            log._events._writer._py_recordio_writer.close()
            log._events._writer._py_recordio_writer._writer = sink
        for step in range(steps):
            log.metrics(step, "float", "train", {"loss": 1.0})
    with contextlib.suppress(OSError):
        sink.close()
