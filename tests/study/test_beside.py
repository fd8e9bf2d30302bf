"""What stands beside top-1: the distance to float and the flips, described over seeds."""

import json
import statistics

import numpy as np
import pytest
from scipy import stats

from lglsq_jax.study import Cells
from lglsq_jax.study.beside import measures
from tests.study.tiny import finish, study_file, tiny_study


def results(seeds: int, **more) -> dict:
    rng = np.random.default_rng(0)
    return {
        ("w2a2", variant, seed): {
            "top1": float(rng.uniform(0.8, 0.9)),
            "float_top1": float(rng.uniform(0.9, 1)),
            "flipped": float(rng.uniform(0, 0.2)),
            **more,
        }
        for variant in ("lsq", "lsq+asr")
        for seed in range(seeds)
    }


def test_means_are_over_seeds_and_flips_are_paired():
    found = results(6)
    lsq, asr = measures(tiny_study(seeds=6), found)
    below = [100 * (found["w2a2", "lsq+asr", seed]["top1"] - found["w2a2", "lsq+asr", seed]["float_top1"])
             for seed in range(6)]  # fmt: skip
    fewer = [100 * (found["w2a2", "lsq+asr", seed]["flipped"] - found["w2a2", "lsq", seed]["flipped"])
             for seed in range(6)]  # fmt: skip
    assert lsq.flips_against is None and (asr.setting, asr.variant) == ("w2a2", "lsq+asr")
    for mean, values in ((asr.against_float, below), (asr.flips_against, fewer)):
        assert mean is not None and mean.seeds == 6
        error = statistics.stdev(values) / 6**0.5
        assert (mean.mean, mean.error) == pytest.approx((statistics.mean(values), error))
        half = stats.t.ppf(0.975, 5) * error
        assert (mean.interval.low, mean.interval.high) == pytest.approx((mean.mean - half, mean.mean + half))


def test_what_was_not_measured_is_left_out():
    assert measures(tiny_study(seeds=3), results(3, float_top1=None, flipped=None)) == []
    assert measures(tiny_study(seeds=3), {("w2a2", "lsq", 0): {"top1": 0.9}}) == []
    row, _ = measures(tiny_study(seeds=3), results(3, float_top1=None))
    assert row.against_float is None and row.flipped is not None


def test_a_float_network_that_is_never_right_was_measured():
    row, _ = measures(tiny_study(seeds=3), results(3, top1=0.25, float_top1=0.0))
    assert row.against_float is not None and (row.against_float.seeds, row.against_float.mean) == (3, 25)


def test_the_table_stands_below_the_others(tmp_path, command):
    cells = Cells(tiny_study(seeds=5), tmp_path / "runs")
    for cell in cells.study.cells:
        asr = cell.variant == "lsq+asr"
        more = {"float_top1": 0.95, "flipped": 0.1 - 0.04 * asr + 0.001 * cell.seed}
        finish(cells.run_folder(cell), 0.9 + 0.01 * asr, **more)
    shown = command("study", study_file(tmp_path, seeds=5), "--runs", cells.folder, "--table").output
    line = next(line for line in shown.splitlines() if "-4.00 ± 0.00" in line and "lsq+asr" in line)
    assert [text.strip() for text in line.strip("|").split("|")] == [
        "w2a2", "lsq+asr", "5", "-4.00 ± 0.00", "-4.00 to -4.00", "6.20 ± 0.07", "-4.00 ± 0.00", "-4.00 to -4.00",
    ]  # fmt: skip
    assert "Means of fewer than 5 seeds" not in shown
    for cell in cells.study.cells:
        if cell.seed > 1:
            finish(cells.run_folder(cell), 0.9, flipped=0.1)
    shown = command("study", study_file(tmp_path, seeds=5), "--runs", cells.folder, "--table").output
    assert any(line.startswith("| w2a2    | lsq+asr | 2, 5  |") for line in shown.splitlines())
    assert "not tested. Means of fewer than 5 seeds are no result." in shown
    fields = json.loads(
        command("study", study_file(tmp_path, seeds=5), "--runs", cells.folder, "--table", "--json").output
    )
    assert (
        fields["beside"][1]["flipped"]["mean"] == pytest.approx(8.42) and fields["beside"][0]["flips_against"] is None
    )
