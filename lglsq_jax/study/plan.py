"""What a study compares: blocks of variants, each in several settings, all over the same seeds."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..training.bounds import check_whole
from ..training.config import TrainConfig, as_dict, from_dict

_OWN = ("seed", "data.draw_seed", "pretraining.start_from")
"""Fields that the study itself gives each cell."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where variants are compared: data, network, bits, schedule.

    Attributes:
        name: a word, such as ``resnet8-w2a2``.
        changes: fields of the study's config by their dotted names, such as ``{"quantized.weight_bits": 2}``.
    """

    name: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        _check_name(self.name)


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is compared, most often a method.

    Attributes:
        name: a word, such as ``lsq+asr``.
        changes: fields as in ``Setting``, made after those of the setting; None: ``{"quantized.method": name}``.
    """

    name: str
    changes: Mapping[str, Any] | None = None

    def __post_init__(self):
        _check_name(self.name)

    @property
    def fields(self) -> Mapping[str, Any]:
        """The changes, those of a method's name included."""
        return {"quantized.method": self.name} if self.changes is None else self.changes


@dataclasses.dataclass(frozen=True)
class Block:
    """One table: each variant against the baseline, in each setting.

    Attributes:
        title: a line above the table.
        settings: at least one.
        variants: at least two.
        baseline: the name of one of them.
    """

    title: str
    settings: tuple[Setting, ...]
    variants: tuple[Variant, ...]
    baseline: str

    def __post_init__(self):
        for what, items, least in (("settings", self.settings, 1), ("variants", self.variants, 2)):
            names = [item.name for item in items]
            if len(names) < least or len(set(names)) < len(names):
                raise UserError(
                    f"the {what} of {self.title!r} must be at least {least}, each with a name of its own, got {names}"
                )
        names = [variant.name for variant in self.variants]
        if self.baseline not in names:
            raise UserError(f"the baseline of {self.title!r} must be one of {', '.join(names)}, got {self.baseline!r}")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: a variant in a setting with a seed.

    Attributes:
        setting: name of the setting.
        variant: name of the variant.
        seed: of the run, and of the draw of training images and wrong labels.
        config: the experiment; its float phase is that of all cells of the same ``float_config``.
    """

    setting: str
    variant: str
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        """Setting, variant and seed as the path of a folder."""
        return f"{self.setting}/{self.variant}/seed{self.seed}"

    @property
    def float_config(self) -> TrainConfig:
        """The part of the config that its float network depends on; the quantized phase is the default one."""
        plain = TrainConfig().quantized
        return dataclasses.replace(self.config, quantized=plain)


@dataclasses.dataclass(frozen=True)
class Study:
    """Blocks over the same seeds.

    A cell that two blocks have in common, by the names of its setting and variant, is one run.

    Attributes:
        name: a word; the study's folder is named after it.
        base: the config that settings and variants change.
        blocks: tables, in order.
        seeds: how many; each is a seed of the weights, of the order of the images, and of ``data.draw_seed``.
        first_seed: of them; another study that is to confirm this one takes seeds that this one has not.

    Raises:
        UserError: a field is not known or out of range, a setting or a variant changes one that the study gives each
            cell itself, or two blocks mean different things by the same names.
    """

    name: str
    base: TrainConfig
    blocks: tuple[Block, ...]
    seeds: int = 10
    first_seed: int = 0

    def __post_init__(self):
        _check_name(self.name)
        check_whole("seeds", self.seeds, 1)
        check_whole("first_seed", self.first_seed, 0)
        if self.base.pretraining.start_from is not None:
            raise UserError("`start_from` of a study's base must be None: a study trains a float network a seed itself")
        if not self.blocks:
            raise UserError(f"the study {self.name} must have at least one block")
        known: dict[str, TrainConfig] = {}
        for cell in self._cells_of_seed(self.first_seed):
            if known.setdefault(cell.name, cell.config) != cell.config:
                raise UserError(
                    f"two blocks of the study {self.name} must mean the same by {cell.setting}/{cell.variant}, "
                    "but their configs differ"
                )

    @functools.cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All runs, seed by seed, so that a study that is stopped has whole seeds; each once."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return tuple(cell for seed in seeds for cell in self._unique(seed))

    def _unique(self, seed: int) -> list[Cell]:
        return list({cell.name: cell for cell in self._cells_of_seed(seed)}.values())

    def _cells_of_seed(self, seed: int):
        for block in self.blocks:
            for setting in block.settings:
                for variant in block.variants:
                    wanted = {**setting.changes, **variant.fields}
                    if taken := [name for name in _OWN if name in wanted]:
                        raise UserError(
                            f"{setting.name}/{variant.name} must leave {taken[0]} to the study, which gives each cell "
                            f"its own, got {wanted[taken[0]]!r}"
                        )
                    changes = {**wanted, "seed": seed, "data.draw_seed": seed}
                    try:
                        config = changed(self.base, changes)
                    except UserError as error:
                        raise UserError(f"{setting.name}/{variant.name}: {error}") from None
                    yield Cell(setting.name, variant.name, seed, config)


def fields_of(config: TrainConfig) -> dict[str, Any]:
    """Returns every field by the name that its flag has: ``data.label_noise``, ``seed``."""
    found: dict[str, Any] = {}
    for group, value in as_dict(config).items():
        found |= (
            {f"{group}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {group: value}
        )
    return found


def changes_to(base: TrainConfig, config: TrainConfig) -> dict[str, Any]:
    """Returns what ``changed`` makes ``config`` of ``base`` with."""
    before = fields_of(base)
    return {name: value for name, value in fields_of(config).items() if value != before[name]}


def changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Returns a config with other values in some fields, named as flags are: ``data.label_noise``, ``seed``.

    Raises:
        UserError: a field is not known (the closest is named) or a value is out of range.
    """
    fields, known = as_dict(config), fields_of(config)
    for name, value in changes.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"a config has no field {name!r}{hint}")
        group, _, last = name.rpartition(".")
        (fields[group] if group else fields)[last] = value
    return from_dict(fields)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"`name` must be a word of letters, digits and _ . + -, got {name!r}")
