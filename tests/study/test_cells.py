"""A study's folder, its command, and a real study that is stopped and goes on."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from lglsq_jax.commands.study import _on_a_part_of_the_cpus
from lglsq_jax.errors import UserError
from lglsq_jax.study import Cells, Setting, known_results, run_cells
from lglsq_jax.study.cells import FINISHED, _train
from lglsq_jax.training import PretrainingConfig
from lglsq_jax.training.config import as_dict
from lglsq_jax.training.folder import RunFolder
from lglsq_jax.training.log import read_metrics
from lglsq_jax.training.signals import Stopped, StopRequest
from tests.study.tiny import W2A2, finish, finish_all, study_file, tiny_study


@pytest.fixture
def cells(tmp_path) -> Cells:
    return Cells(tiny_study(seeds=10), tmp_path / "runs")


def gaining(cell) -> float:
    """The second variant is one to three images of 360 better, whatever the seed."""
    return (300 + 3 * cell.seed % 7 + (cell.variant == "lsq+asr") * (1 + cell.seed % 3)) / 360


def test_time_left_is_judged_by_the_same_setting(tmp_path):
    slow = Setting("slow", W2A2.changes | {"quantized.epochs": 9})
    cells = Cells(tiny_study(seeds=2, settings=(W2A2, slow)), tmp_path)
    quick, _, long, last = cells.study.cells[:4]
    assert cells.seconds_left(cells.study.cells) is None
    finish(cells.float_folder(quick), 0.9, seconds=50)
    finish(cells.run_folder(quick), 0.9, seconds=10)
    finish(cells.run_folder(long), 0.9, seconds=100)
    # one quick and one slow cell of seed 0, two of each of seed 1, and the float network of seed 1
    assert cells.seconds_left(cells.study.cells) == 3 * 10 + 3 * 100 + 50
    assert cells.seconds_left([last]) == 100
    assert cells.seconds_left([quick, long]) == 0


def test_the_command_shows_what_is_finished_and_runs_nothing(cells, tmp_path, command):
    file = study_file(tmp_path, seeds=10)
    finish_all(cells, gaining)
    shown = command("study", file, "--runs", cells.folder, "--table")
    assert shown.status == 0, shown.error
    assert "# tiny: 20 of 20 cells finished" in shown.output
    assert "lsq+asr is better than lsq in w2a2: +0.53 points" in shown.output
    assert (cells.folder / "report" / "tables.md").read_text() in shown.output
    fields = json.loads(command("study", file, "--runs", cells.folder, "--table", "--json").output)
    row = fields["tables"][0]["rows"][1]
    assert (row["variant"], row["pairs"], row["verdict"]) == ("lsq+asr", 10, "better")
    assert fields["tables"][0]["rows"][0]["p"] is None and fields["hours_left"] == 0


def test_few_seeds_are_no_result_and_a_guess_is_named(tmp_path, command):
    cells = Cells(tiny_study(seeds=10), tmp_path / "runs")
    for cell in cells.study.cells[:6]:
        finish(cells.run_folder(cell), gaining(cell), diverged="the loss must be finite" * (cell.seed == 2))
    shown = command("study", study_file(tmp_path, seeds=10), "--runs", cells.folder, "--table")
    assert "Fewer than 5 seeds are finished for 2 of 2 rows: those figures are not a result." in shown.output
    assert "1 of 1 comparisons with lsq show no difference that may be claimed." in shown.output
    assert "which counts as a guess: w2a2/lsq/seed2, w2a2/lsq+asr/seed2." in shown.output
    assert "6 of 20 cells finished, about" in shown.output


def test_the_list_names_chosen_cells(cells, tmp_path, command):
    finish(cells.run_folder(cells.study.cells[0]), 0.95)
    flags = "--runs", cells.folder, "--list", "--only", "w2a2/lsq/*", "--share", "0/2"
    listed = command("study", study_file(tmp_path, seeds=10), *flags)
    lines = [f"w2a2/lsq/seed{seed}  {'95.00 %' if seed == 0 else '-'}" for seed in (0, 2, 4, 6, 8)]
    assert listed.output.splitlines()[:-1] == lines
    assert listed.output.splitlines()[-1].startswith("1 of 5 cells finished, about 0.13 h left")


def test_what_another_machine_found_counts_as_finished(cells, tmp_path, command):
    file = study_file(tmp_path, seeds=10)
    for cell in cells.study.cells[:12]:
        finish(cells.run_folder(cell), gaining(cell), diverged="the loss must be finite" * (cell.seed == 2))
    (tmp_path / "there.json").write_text(command("study", file, "--runs", cells.folder, "--list", "--json").output)
    here = Cells(cells.study, tmp_path / "here")
    for cell in here.study.cells[10:]:  # two cells have been trained on both
        finish(here.run_folder(cell), gaining(cell))
    shown = command("study", file, "--runs", here.folder, "--known", tmp_path / "there.json", "--table")
    assert "# tiny: 20 of 20 cells finished" in shown.output and "w2a2/lsq/seed2, w2a2/lsq+asr/seed2" in shown.output
    assert "lsq+asr is better than lsq in w2a2: +0.53 points" in shown.output
    again = command("study", file, "--runs", here.folder, "--known", tmp_path / "there.json")  # trains nothing
    assert again.status == 0 and again.output == shown.output
    elsewhere = command("study", file, "--runs", tmp_path / "no", "--known", tmp_path / "there.json", "--table")
    assert "# tiny: 12 of 20 cells finished" in elsewhere.output and "wrote" not in elsewhere.output
    assert not (tmp_path / "no").exists()


def test_tables_that_cannot_be_written_are_printed(cells, tmp_path, command):
    finish_all(cells, gaining)
    (cells.folder / "report").write_text("a file where the folder should be")
    shown = command("study", study_file(tmp_path, seeds=10), "--runs", cells.folder, "--table")
    assert (shown.status, shown.error) == (0, "") and "# tiny: 20 of 20 cells finished" in shown.output
    assert shown.output.splitlines()[-1].startswith(f"cannot write to {cells.folder / 'report'}: ")


def test_cells_of_another_config_are_refused_and_named(cells, tmp_path, command):
    cell = cells.study.cells[0]
    finish(cells.run_folder(cell), 0.9)
    config = dataclasses.replace(cells.config(cell), checkpoint_every=3)  # how it runs, not what it computes
    RunFolder(cells.run_folder(cell)).config_file.write_text(json.dumps(as_dict(config)))
    moved = Cells(cells.study, cells.folder.rename(tmp_path / "moved"))
    moved.check()
    other = Setting("w2a2", W2A2.changes | {"quantized.epochs": 3})
    now = Cells(tiny_study(seeds=10, settings=(other,)), moved.folder)
    with pytest.raises(UserError, match=r"w2a2/lsq/seed0 in .* differs in quantized.epochs \(2, now 3\)"):
        now.check()
    with pytest.raises(UserError, match="name another folder with --runs"):
        run_cells(now, now.study.cells, print)

    flags = "--runs", moved.folder, "--list", "--json"
    (tmp_path / "there.json").write_text(command("study", study_file(tmp_path, seeds=10), *flags).output)
    assert set(known_results(cells.study, tmp_path / "there.json")) == {cell.name}
    with pytest.raises(UserError, match=r"w2a2/lsq/seed0 in .*there.json .* differs in quantized.epochs \(2, now 3\)"):
        known_results(now.study, tmp_path / "there.json")


def test_a_study_may_start_from_the_weights_of_a_file(tmp_path):
    def started(file):
        return tiny_study(settings=(Setting("w2a2", {**W2A2.changes, "pretraining.weights": file}),))

    cells = Cells(started("resnet18.safetensors"), tmp_path)
    cell = cells.study.cells[0]
    assert cell.float_config.pretraining.weights == "resnet18.safetensors"
    config = cells.config(cell)
    assert config.pretraining.weights is None
    assert config.pretraining.start_from == str(cells.float_folder(cell))
    finish(cells.run_folder(cell), 0.9)
    RunFolder(cells.run_folder(cell)).config_file.write_text(json.dumps(as_dict(config)))
    finish(cells.float_folder(cell), 0.9)
    RunFolder(cells.float_folder(cell)).config_file.write_text(json.dumps(as_dict(cell.float_config)))
    cells.check()
    for other in ("another.safetensors", None):
        with pytest.raises(UserError, match=r"w2a2/lsq/seed0 in .* differs in pretraining.weights .'resnet18"):
            Cells(started(other), tmp_path).check()


def test_a_cell_whose_config_was_never_seen_counts_by_name_and_stays_unseen(cells, tmp_path, command):
    old = {"cell": "w2a2/lsq/seed0", "top1": 0.9, "seconds": 1.0, "diverged": ""}
    (tmp_path / "old.json").write_text(json.dumps({"study": "tiny", "cells": [old]}))
    finish(cells.run_folder(cells.study.cells[1]), 0.8)  # without its config
    flags = "--runs", cells.folder, "--known", tmp_path / "old.json", "--list", "--json"
    listed = json.loads(command("study", study_file(tmp_path, seeds=10), *flags).output)
    assert [row["changes"] for row in listed["cells"]] == [None] * 20 and listed["finished"] == 2


def test_a_number_is_the_same_in_any_spelling(tmp_path):
    def named(rate):
        (cell, *_) = tiny_study(settings=(Setting("w2a2", {"pretraining.learning_rate": rate}),)).cells
        return Cells(tiny_study(), tmp_path).float_folder(cell)

    assert named(1) == named(1.0) != named(2)


def test_a_float_network_of_another_config_is_refused(cells):
    cell = cells.study.cells[0]
    start = cells.float_folder(cell)
    finish(start, 0.9)
    config = dataclasses.replace(cell.float_config, pretraining=PretrainingConfig(epochs=7))
    RunFolder(start).config_file.write_text(json.dumps(as_dict(config)))
    with pytest.raises(UserError, match=r"float/seed0-.* differs in pretraining.epochs \(7, now 1\)"):
        cells.check()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top1", "must be JSON"),
        ("[]", "must be what `study FILE --list --json` prints"),
        ('{"study": "tiny", "cells": [{"cell": "w2a2/lsq/seed0"}]}', "must be what `study FILE --list --json` prints"),
        (
            '{"study": "tiny", "cells": [{"cell": "w2a2/lsq/seed0", "top1": 85, "seconds": 1, "diverged": ""}]}',
            "prints",
        ),
        ('{"study": "other", "cells": []}', "must be of the study 'tiny', but it is of 'other'"),
        (
            '{"study": "tiny", "cells": [{"cell": "w9/x", "top1": null, "seconds": null, "diverged": ""}]}',
            "holds 'w9/x'",
        ),
    ],
)
def test_a_list_that_is_none_is_one_sentence(text, words, tmp_path, command):
    (tmp_path / "there.json").write_text(text)
    flags = "--runs", tmp_path / "runs", "--known", tmp_path / "there.json", "--table"
    answer = command("study", study_file(tmp_path, seeds=2), *flags)
    assert answer.status == 2 and words in answer.error and "Traceback" not in answer.error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["x"], "there.json must be what `study FILE --list --json` prints"),
        ({"quantized.gone": 1}, "the config of w2a2/lsq/seed0 in .*there.json is .*: a config has no field"),
        ({"quantized.learning_rates": 3}, "the config of w2a2/lsq/seed0 in .*there.json is of another version or dam"),
    ],
)
def test_a_list_with_a_damaged_config_is_one_sentence_that_names_the_file(changes, words, tmp_path):
    study = tiny_study()
    row = {"cell": "w2a2/lsq/seed0", "top1": 0.9, "seconds": 1, "diverged": "", "changes": changes}
    listed = {"study": "tiny", "base": as_dict(study.base), "cells": [row]}
    (tmp_path / "there.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=words):
        known_results(study, tmp_path / "there.json")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--only", "nothing"], "`--only` must match a cell, such as w2a2/lsq/seed0"),
        (["--share", "2/2"], "`--share` must be I/N with I from 0 to N - 1"),
        (["--share", "half"], "`--share` must be I/N"),
        (["--processes", "0"], "`--processes` must be a whole number of at least 1, got 0"),
        (["--processes", "2", "--share", "0/2"], "`--processes` and `--share` must not both be given"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, words, tmp_path, command):
    answer = command("study", study_file(tmp_path, seeds=2), "--runs", tmp_path / "runs", *flags)
    assert answer.status == 2
    assert words in answer.error


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux says which CPUs a process may use")
def test_processes_share_the_cpus():
    mine = os.sched_getaffinity(0)
    with _on_a_part_of_the_cpus(0, len(mine)):
        assert os.sched_getaffinity(0) == {min(mine)}
    assert os.sched_getaffinity(0) == mine
    with _on_a_part_of_the_cpus(0, len(mine) + 1):
        assert os.sched_getaffinity(0) == mine


def test_a_file_without_a_study_is_refused(tmp_path, command):
    answer = command("study", tmp_path / "none.py")
    assert answer.status == 2 and "FILE must be a Python file with a `study`" in answer.error
    (tmp_path / "empty.py").write_text("x = 1")
    answer = command("study", tmp_path / "empty.py")
    assert answer.status == 2 and "must define `study` as a Study, got None" in answer.error


def test_figures_are_drawn_where_they_can_be(cells, tmp_path, command):
    pytest.importorskip("matplotlib")
    finish_all(cells, gaining)
    command("study", study_file(tmp_path, seeds=10), "--runs", cells.folder, "--table")
    assert (cells.folder / "report" / "table1.png").read_bytes()[:4] == b"\x89PNG"


def test_the_seconds_of_a_run_that_went_on_are_those_of_all_its_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr("lglsq_jax.training.experiment.train_alone", lambda *_, **__: 0.9)
    lines = [{"step": step, "phase": "quantized", "split": "test", "seconds": 100.0} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _train(tmp_path, tiny_study().base, "quantized", None)["seconds"] == 200
    (tmp_path / "metrics.jsonl").unlink()
    assert 0 <= _train(tmp_path, tiny_study().base, "quantized", None)["seconds"] < 100


@pytest.mark.long
def test_a_study_that_is_stopped_goes_on_cell_by_cell(tmp_path, command, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    cells, said = Cells(tiny_study(seeds=2), tmp_path / "runs"), []
    first, second, *others = cells.study.cells
    with pytest.raises(Stopped):  # a step of the float network and one of the two of the first cell
        run_cells(cells, cells.study.cells, said.append, StopRequest(after_steps=2))
    assert not said and (cells.float_folder(first) / FINISHED).exists() and cells.result(first) is None

    run_cells(cells, [first, second], said.append)
    assert "going on from step 1" in (cells.folder / "log.txt").read_text()
    assert [line.split(":")[0] for line in said] == ["1/2 w2a2/lsq/seed0", "2/2 w2a2/lsq+asr/seed0"]
    assert len(list((cells.folder / "float").iterdir())) == 1
    found, start = cells.result(first), json.loads((cells.float_folder(first) / FINISHED).read_text())
    assert found is not None and found["float_top1"] == start["top1"] and 0 < found["flipped"] < 1
    lines = [line for line in read_metrics(RunFolder(cells.run_folder(first))) if line["split"] == "layers"]
    layers = {path: layer["weight_codes_flipped"] for path, layer in lines[-1].items() if isinstance(layer, dict)}
    inner = [share for path, share in layers.items() if path not in ("conv1", "fc")]  # those two have 8 bits
    assert found["flipped"] == pytest.approx(np.mean(inner)) != pytest.approx(np.mean(list(layers.values())))
    stamp = (cells.run_folder(first) / FINISHED).stat().st_mtime_ns

    finished = command("study", study_file(tmp_path, seeds=2), "--runs", cells.folder, "--processes", "2")
    assert finished.status == 0 and "# tiny: 4 of 4 cells finished" in finished.output
    assert (cells.run_folder(first) / FINISHED).stat().st_mtime_ns == stamp
    assert all(cells.result(cell) for cell in others)
    run_cells(cells, cells.study.cells, said.append)  # nothing is left to do
    assert len(said) == 2
