"""What the user says about data: the source, the batch sizes, the augmentation."""

import dataclasses
import operator

from ..errors import UserError
from .sources import find_source


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they become batches.

    Raises:
        UserError: a field is out of range, the source is not known, or it needs a field that is not given.
    """

    source: str = "digits"
    """Where images come from: digits (embedded), idx (four MNIST-style files), npz (one file) or tfds (prepared)."""
    path: str | None = None
    """idx: the folder with the four files; npz: the file; tfds: the folder of prepared data sets (None: TFDS's own)."""
    name: str | None = None
    """tfds: name of the data set, such as cifar10 or mnist:3.0.1."""
    batch_size: int = 128
    """Images in a training batch; at most as many as there are training images."""
    eval_batch_size: int = 512
    """Images in an evaluation batch; the last one is padded and masked."""
    crop_padding: int = 0
    """Black pixels added on every side before a random crop to the old size; 0: no cropping."""
    flip: bool = False
    """Mirror half of the training images left to right; not for digits or letters."""
    workers: int = 0
    """Processes that prepare training batches; 0: a thread of this process. Batches do not depend on it."""

    def __post_init__(self):
        for field in ("source", "path", "name"):
            value = getattr(self, field)
            if not isinstance(value, str) and not (value is None and field != "source"):
                raise UserError(f"`{field}` must be text, got {value!r}")
        for field, smallest in (("batch_size", 1), ("eval_batch_size", 1), ("crop_padding", 0), ("workers", 0)):
            object.__setattr__(self, field, whole_number(field, getattr(self, field), smallest))
        if not isinstance(self.flip, bool):
            raise UserError(f"`flip` must be True or False, got {self.flip!r}")
        for field in find_source(self.source).needs:
            if not getattr(self, field):
                raise UserError(f"`{field}` must be given for the source {self.source!r}, got {getattr(self, field)!r}")


def whole_number(argument: str, value: object, smallest: int) -> int:
    """``value`` as an int; refuses anything that is not a whole number from ``smallest`` on."""
    if not isinstance(value, bool):
        try:
            number = operator.index(value)  # pyright: ignore[reportArgumentType]
        except TypeError:
            pass
        else:
            if number >= smallest:
                return number
    raise UserError(f"`{argument}` must be a whole number of at least {smallest}, got {value!r}")
