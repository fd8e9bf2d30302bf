"""What the table says, and what it may not say."""

import math

import numpy as np
import pytest

from lglsq_jax.study import Block, Variant, tables
from lglsq_jax.study.comparison import verdict
from tests.study.tiny import METHODS, W2A2, tiny_study


def found(seeds: int, gain, *, noise: float = 0.002) -> dict[tuple[str, str, int], float]:
    """Top-1 of tiny cells whose seeds differ much and whose variants differ by ``gain``."""
    random = np.random.default_rng(0)
    base = 0.9 + 0.02 * random.normal(size=seeds)
    moved = base + gain + noise * random.normal(size=seeds)
    return {("w2a2", v, s): float(x[s]) for v, x in (("lsq", base), ("lsq+asr", moved)) for s in range(seeds)}


def test_pairs_take_out_what_seeds_have_in_common():
    (table,) = tables(tiny_study(seeds=10), found(10, 0.01))
    base, row = table.rows
    assert (base.variant, base.pairs, base.verdict) == ("lsq", 0, "")
    assert row.difference == pytest.approx(row.mean - base.mean)
    assert row.difference_error < row.error / 5
    assert row.verdict == "better" and row.interval.low > 0
    assert tables(tiny_study(seeds=10), found(10, -0.01))[0].rows[1].verdict == "worse"


@pytest.mark.parametrize(
    ("seeds", "gain", "says"),
    [
        (4, 0.05, "too few seeds"),
        (9, 0.05, "too few seeds to claim"),
        (10, 0.05, "better"),
        (10, 0.0, "not significant"),
        (1, 0.05, "too few seeds"),
    ],
)
def test_a_claim_needs_ten_seeds(seeds, gain, says):
    assert tables(tiny_study(seeds=10), found(seeds, gain))[0].rows[1].verdict == says


@pytest.mark.parametrize(
    ("pairs", "corrected", "says"),
    [(10, 0.049, "better"), (10, 0.05, "not significant"), (10, math.nan, "not significant")],
)
def test_and_a_corrected_p_below_the_level(pairs, corrected, says):
    assert verdict(pairs, 1.0, corrected) == says


def test_the_correction_counts_every_comparison_of_the_study_once():
    blocks = (
        Block("A", (W2A2,), METHODS, "lsq"),
        Block("B", (W2A2,), (*METHODS, Variant("ewgs")), "lsq"),  # has the comparison of A once more
    )
    top1 = found(10, 0.004)
    top1 |= {("w2a2", "ewgs", s): top1["w2a2", "lsq", s] + (0.001 if s % 2 else -0.001) for s in range(10)}
    first, second = tables(tiny_study(seeds=10, blocks=blocks), top1)
    assert first.comparisons == second.comparisons == 2
    p = first.rows[1].p
    assert p < second.rows[2].p
    assert first.rows[1].corrected == second.rows[1].corrected == pytest.approx(2 * p)


def test_seeds_without_a_partner_count_for_the_mean_alone():
    top1 = found(10, 0.01)
    for seed in range(7):
        del top1["w2a2", "lsq", seed]
    base, row = tables(tiny_study(seeds=10), top1)[0].rows
    assert (base.seeds, row.seeds, row.pairs) == (3, 10, 3)


def test_nothing_finished_is_an_empty_table():
    (table,) = tables(tiny_study(), {})
    assert table.rows == () and table.comparisons == 0


def test_equal_results_are_equal_however_they_are_divided():
    """A gain of one image of 360 for every seed has no spread, and p is that of the sign test."""
    top1 = {("w2a2", v, s): (100 + s + more) / 360 for more, v in enumerate(("lsq", "lsq+asr")) for s in range(10)}
    row = tables(tiny_study(seeds=10), top1)[0].rows[1]
    assert row.difference == pytest.approx(100 / 360)
    assert (row.difference_error, row.p, row.verdict) == (pytest.approx(0, abs=1e-12), 2**-9, "better")
