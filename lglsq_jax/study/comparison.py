"""From finished cells to tables: each variant's mean, its paired difference to the baseline, and what may be said."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from .plan import Block, Study
from .statistics import Interval, bootstrap_interval, holm, paired_p_value, standard_error, t_interval

FEWEST_FOR_A_FIGURE = 5
FEWEST_FOR_A_CLAIM = 10
LEVEL = 0.05
CLAIMS = ("better", "worse")
"""The verdicts that claim something."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant in a setting. Values are in points of top-1 (per cent).

    Attributes:
        setting: name.
        variant: name.
        seeds: the finished ones.
        mean: over them.
        error: standard error of the mean.
        pairs: how many seeds are finished with the baseline too; 0 for the baseline itself.
        difference: mean paired difference to the baseline.
        difference_error: its standard error.
        interval: 95 % t interval of the difference.
        bootstrap: 95 % percentile bootstrap interval of it.
        p: of the paired t-test, two-sided.
        corrected: p by Holm's method over every comparison of the study.
        verdict: what may be said.
    """

    setting: str
    variant: str
    seeds: int
    mean: float
    error: float
    pairs: int = 0
    difference: float = math.nan
    difference_error: float = math.nan
    interval: Interval = Interval(math.nan, math.nan)  # noqa: RUF009 - frozen
    bootstrap: Interval = Interval(math.nan, math.nan)  # noqa: RUF009
    p: float = math.nan
    corrected: float = math.nan
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a block, setting by setting.

    Attributes:
        block: what was compared.
        rows: of the variants that have a finished cell.
        comparisons: how many the correction of the whole study counts.
    """

    block: Block
    rows: tuple[Row, ...]
    comparisons: int


def tables(study: Study, top1: Mapping[tuple[str, str, int], float]) -> list[Table]:
    """Returns a table a block.

    One family of comparisons: Holm's correction counts every comparison of the study that has at least two pairs, once
    each where two blocks have it in common.

    Args:
        study: what is compared with what.
        top1: top-1 of each finished cell by (setting, variant, seed), a fraction.
    """
    found = [(block, [_row(block, setting.name, variant.name, top1) for setting in block.settings
                      for variant in block.variants]) for block in study.blocks]  # fmt: skip
    family = {
        (row.setting, row.variant, block.baseline): row.p for block, rows in found for row in rows if row and row.pairs
    }
    corrected = dict(zip(family, holm(np.array(list(family.values()))), strict=True))
    tested = int(np.sum(~np.isnan(list(corrected.values())))) if corrected else 0

    def judged(block: Block, row: Row) -> Row:
        if not row.pairs:
            return row
        value = float(corrected[row.setting, row.variant, block.baseline])
        return dataclasses.replace(row, corrected=value, verdict=verdict(row.pairs, row.difference, value))

    return [Table(block, tuple(judged(block, row) for row in rows if row), tested) for block, rows in found]


def verdict(pairs: int, difference: float, corrected: float) -> str:
    """Returns what may be said: a claim needs ten pairs of seeds and a corrected p below 0.05."""
    if pairs < FEWEST_FOR_A_FIGURE:
        return "too few seeds"
    if math.isnan(corrected) or corrected >= LEVEL:
        return "not significant"
    if pairs < FEWEST_FOR_A_CLAIM:
        return "too few seeds to claim"
    return CLAIMS[0] if difference > 0 else CLAIMS[1]


def _row(block: Block, setting: str, variant: str, top1: Mapping[tuple[str, str, int], float]) -> Row | None:
    own = {seed: 100 * value for (s, v, seed), value in top1.items() if (s, v) == (setting, variant)}
    if not own:
        return None
    values = np.array(list(own.values()))
    row = Row(setting, variant, len(own), float(values.mean()), standard_error(values))
    baseline = {seed: 100 * value for (s, v, seed), value in top1.items() if (s, v) == (setting, block.baseline)}
    pairs = sorted(own.keys() & baseline.keys())
    if variant == block.baseline or not pairs:
        return row
    # Counts of images differ by whole numbers; rounding takes back what the division left behind.
    differences = np.round([own[seed] - baseline[seed] for seed in pairs], 9)
    return dataclasses.replace(
        row,
        pairs=len(pairs),
        difference=float(differences.mean()),
        difference_error=standard_error(differences),
        interval=t_interval(differences),
        bootstrap=bootstrap_interval(differences),
        p=paired_p_value(differences),
    )
