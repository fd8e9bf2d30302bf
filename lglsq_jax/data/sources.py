"""Every source of images: a line here and a module of this folder with ``read(config) -> Dataset``."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from .config import DataConfig
    from .dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a source is read, and which fields of ``DataConfig`` it cannot do without or reads.

    Attributes:
        module: the module of this folder whose ``read(config)`` returns a ``Dataset``; imported when it is first used.
        needs: which of the fields ``path`` and ``name`` of ``DataConfig`` the user has to give.
        may_have: which of them it reads where they are given; others are refused.
        photos: whether its images are of any size, so that they are cropped and resized as ImageNet's are.
    """

    module: str
    needs: tuple[str, ...] = ()
    may_have: tuple[str, ...] = ()
    photos: bool = False


SOURCES = {
    "digits": Source("digits"),
    "idx": Source("idx", needs=("path",)),
    "npz": Source("npz", needs=("path",)),
    "tfds": Source("tfds", needs=("name",), may_have=("path",)),
    "folder": Source("folder", needs=("path",), photos=True),
    "imagenet": Source("imagenet", may_have=("path", "name"), photos=True),
}
"""Every source by the name that ``--data.source`` takes."""


def find_source(name: str) -> Source:
    """The source of that name.

    Raises:
        UserError: there is none; names the known ones, and the closest.
    """
    if name in SOURCES:
        return SOURCES[name]
    close = difflib.get_close_matches(name.lower(), SOURCES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UserError(f"`source` must be one of {', '.join(SOURCES)}, got {name!r}{hint}")


def open_dataset(config: DataConfig) -> Dataset:
    """Reads the data set that ``config`` names, and checks all of it that can be checked at once.

    Raises:
        UserError: something is missing, damaged or does not fit together, or ``batch_size`` or ``train_images`` is
            larger than the training set.
    """
    module = importlib.import_module(f".{find_source(config.source).module}", __package__)
    dataset = module.read(config)
    if config.train_images is not None or config.label_noise or config.held_out or config.train_part is not None:
        from .draw import drawn

        dataset = drawn(dataset, config)
    dataset.check_batch_size(config.batch_size)
    return dataset
