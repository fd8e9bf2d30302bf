"""What a study consists of, and what is refused."""

import pytest

from lglsq_jax.commands.train import load_module
from lglsq_jax.errors import UserError
from lglsq_jax.study import Block, Setting, Study, Variant
from lglsq_jax.study.plan import changed
from lglsq_jax.training import TrainConfig
from tests.short_run import ROOT
from tests.study.tiny import BASE, METHODS, W2A2, tiny_study


def test_every_cell_is_a_plain_config_and_seeds_are_paired():
    cells = tiny_study(seeds=2).cells
    assert [cell.name for cell in cells] == [
        "w2a2/lsq/seed0", "w2a2/lsq+asr/seed0", "w2a2/lsq/seed1", "w2a2/lsq+asr/seed1",
    ]  # fmt: skip
    config = cells[3].config
    assert (config.seed, config.data.draw_seed, config.quantized.method) == (1, 1, "lsq+asr")
    assert (config.quantized.weight_bits, config.quantized.input_bits, config.quantized.epochs) == (2, 2, 2)


def test_a_study_that_confirms_another_has_seeds_of_its_own():
    cells = tiny_study(seeds=2, first_seed=7).cells
    assert [cell.seed for cell in cells] == [7] * (len(cells) // 2) + [8] * (len(cells) // 2)
    assert all(cell.config.seed == cell.config.data.draw_seed == cell.seed for cell in cells)


def test_cells_share_a_float_network_unless_something_before_it_differs():
    noisy = Setting("noisy", {**W2A2.changes, "data.label_noise": 0.4})
    fast = Setting("fast", {**W2A2.changes, "quantized.scale_learning_rate": 1.0, "quantized.epochs": 1})
    study = tiny_study(seeds=1, settings=(W2A2, noisy, fast))
    floats = {cell.setting: cell.float_config for cell in study.cells}
    assert floats["w2a2"] == floats["fast"] != floats["noisy"]


def test_a_cell_of_two_blocks_is_one_run():
    blocks = (Block("A", (W2A2,), METHODS, "lsq"), Block("B", (W2A2,), (METHODS[0], Variant("lg_lsq")), "lsq"))
    names = [cell.name for cell in tiny_study(seeds=1, blocks=blocks).cells]
    assert sorted(names) == ["w2a2/lg_lsq/seed0", "w2a2/lsq+asr/seed0", "w2a2/lsq/seed0"]


def test_the_same_names_for_different_things_are_refused():
    other = Block("B", (Setting("w2a2", {"quantized.weight_bits": 3}),), METHODS, "lsq")
    with pytest.raises(UserError, match="two blocks of the study tiny must mean the same by w2a2/lsq"):
        tiny_study(blocks=(Block("A", (W2A2,), METHODS, "lsq"), other))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantized.weight_bit": 2}, "no field 'quantized.weight_bit'; did you mean quantized.weight_bits"),
        ({"quantized": {}}, "no field 'quantized'"),
        ({"quantized.weight_bits": 1}, "`weight_bits` must be a whole number between 2 and 8, got 1"),
        ({"quantized.method": "lsq+lsq"}, "`method` must add or leave out ssg, asr, mde"),
    ],
)
def test_a_change_that_cannot_be_is_refused_with_its_cell(changes, words):
    with pytest.raises(UserError, match=words):
        changed(TrainConfig(), changes)
    with pytest.raises(UserError, match=r"^here/(lsq|lsq[+]asr): "):
        tiny_study(settings=(Setting("here", {**W2A2.changes, "data.label_noise": 2}),))


@pytest.mark.parametrize("field", ["seed", "data.draw_seed", "pretraining.start_from"])
def test_a_field_that_the_study_gives_each_cell_is_refused_in_a_setting_and_in_a_variant(field):
    with pytest.raises(UserError, match=f"^here/lsq must leave {field} to the study, which gives .*, got 7$"):
        tiny_study(settings=(Setting("here", {**W2A2.changes, field: 7}),))
    block = Block("A", (W2A2,), (METHODS[0], Variant("other", {field: 7})), "lsq")
    with pytest.raises(UserError, match=f"^w2a2/other must leave {field} to the study"):
        tiny_study(blocks=(block,))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Setting("a b"), "`name` must be a word of letters, digits"),
        (lambda: Variant("../up"), "`name` must be a word of letters, digits"),
        (lambda: Block("T", (), METHODS, "lsq"), "the settings of 'T' must be at least 1"),
        (lambda: Block("T", (W2A2,), METHODS[:1], "lsq"), "the variants of 'T' must be at least 2"),
        (lambda: Block("T", (W2A2,), (METHODS[0],) * 2, "lsq"), "each with a name of its own"),
        (lambda: Block("T", (W2A2,), METHODS, "pact"), "the baseline of 'T' must be one of lsq, lsq[+]asr, got 'pact'"),
        (lambda: tiny_study(seeds=0), "`seeds` must be a whole number of at least 1, got 0"),
        (lambda: tiny_study(first_seed=-1), "`first_seed` must be a whole number of at least 0, got -1"),
        (lambda: Study("empty", BASE, ()), "must have at least one block"),
        (lambda: tiny_study(base=changed(BASE, {"pretraining.start_from": "x"})), "`start_from` of a study's base"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "studies").glob("[!_]*.py")), ids=lambda file: file.stem)
def test_the_studies_of_the_project_can_be_planned(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a study finds the files beside it wherever the command is given
    module = load_module(file)
    assert module.study.name == file.stem
    assert module.study.seeds >= 5 and module.study.cells
