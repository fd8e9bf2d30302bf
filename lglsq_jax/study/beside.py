"""What a study measures beside top-1: the distance to the float network, and how many weight codes still change."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .plan import Study
from .statistics import Interval, standard_error, t_interval

Key = tuple[str, str, int]


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds; described, not tested.

    Attributes:
        seeds: how many.
        mean: over them.
        error: its standard error.
        interval: its 95 % t interval.
    """

    seeds: int
    mean: float
    error: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Beside:
    """A variant in a setting; None where no seed has it.

    Attributes:
        setting: name.
        variant: name.
        against_float: top-1 less that of the float network that the cell started from, in points.
        flipped: weight codes that the last epoch changed, in per cent.
        flips_against: ``flipped`` less that of the baseline with the same seed, in points; None for the baseline.
    """

    setting: str
    variant: str
    against_float: Mean | None
    flipped: Mean | None
    flips_against: Mean | None


def measures(study: Study, results: Mapping[Key, Mapping[str, Any]]) -> list[Beside]:
    """Returns a row for each variant in a setting in which something beside top-1 was measured.

    Args:
        study: the baseline of the first block that a setting stands in is that of its flips.
        results: what finished cells found, by (setting, variant, seed): ``top1``, ``float_top1``, ``flipped``.
    """
    rows: dict[tuple[str, str], Beside] = {}
    for block in study.blocks:
        for setting in block.settings:
            for variant in block.variants:
                place = (setting.name, variant.name)
                if place not in rows:
                    rows[place] = _row(*place, _baseline(study, setting.name), results)
    return [row for row in rows.values() if row.against_float or row.flipped]


def _baseline(study: Study, setting: str) -> str:
    return next(block.baseline for block in study.blocks if setting in [each.name for each in block.settings])


def _row(setting: str, variant: str, baseline: str, results: Mapping[Key, Mapping[str, Any]]) -> Beside:
    own = {key[2]: found for key, found in results.items() if key[:2] == (setting, variant)}
    flips = _flips(own)
    before = _flips({key[2]: found for key, found in results.items() if key[:2] == (setting, baseline)})
    pairs = sorted(flips.keys() & before.keys()) if variant != baseline else []
    return Beside(
        setting,
        variant,
        _mean([100 * (each["top1"] - start) for each in own.values() if (start := each.get("float_top1")) is not None]),
        _mean(list(flips.values())),
        _mean([flips[seed] - before[seed] for seed in pairs]),
    )


def _flips(found: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    return {seed: 100 * each["flipped"] for seed, each in found.items() if each.get("flipped") is not None}


def _mean(values: list[float]) -> Mean | None:
    if not values:
        return None
    array = np.round(np.array(values), 9)  # what dividing by numbers of images left behind
    return Mean(len(values), float(array.mean()), standard_error(array), t_interval(array))
