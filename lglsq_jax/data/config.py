"""What the user says about data: the source, the batch sizes, the augmentation."""

import dataclasses
import operator
import re

from ..errors import UserError
from .sources import find_source

SMALLEST = {
    "batch_size": 1,
    "eval_batch_size": 1,
    "crop_padding": 0,
    "workers": 0,
    "image_size": 1,
    "max_damaged": 0,
    "draw_seed": 0,
    "held_out": 0,
}
PHOTO_FIELDS = {"image_size": 224, "eval_resize": None, "min_crop_area": 0.08, "color_jitter": 0.0}
"""Fields that only sources of images of any size use, and their defaults."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they become batches.

    Raises:
        UserError: a field is out of range, the source is not known, or it needs a field that is not given.
    """

    source: str = "digits"
    """Where images come from: digits (embedded), idx (four MNIST-style files), npz (one file), tfds (prepared), folder
    (a folder of image files a class) or imagenet (by TFDS or such folders)."""
    path: str | None = None
    """idx: the folder with the four files; npz: the file; tfds: the folder of prepared data sets (None: TFDS's own);
    folder: the folder with train and val; imagenet: either of the last two."""
    name: str | None = None
    """tfds: name of the data set, such as cifar10 or mnist:3.0.1; imagenet: None or a version, imagenet2012:5.1.0."""
    batch_size: int = 128
    """Images in a training batch; at most as many as there are training images."""
    eval_batch_size: int = 512
    """Images in an evaluation batch; the last one is padded and masked."""
    crop_padding: int = 0
    """Black pixels added on every side before a random crop to the old size; 0: none. Not for folder, imagenet."""
    flip: bool = False
    """Mirror half of the training images left to right; not for digits or letters."""
    workers: int = 0
    """Processes that decode and prepare batches; 0: threads of this process. Batches do not depend on it."""
    image_size: int = 224
    """folder, imagenet: height and width of what the network sees."""
    eval_resize: int | None = None
    """folder, imagenet: shorter side of a test image before its centre is cut out; None: 256/224 of image_size."""
    min_crop_area: float = 0.08
    """folder, imagenet: smallest area of a random crop, as a share of the image's."""
    color_jitter: float = 0.0
    """folder, imagenet: how far brightness, contrast and saturation move in training (0.4: by 40 %); 0: not at all."""
    max_damaged: int = 100
    """folder, imagenet: how many training images may be damaged; they are told and replaced, one more ends the run."""
    train_images: int | None = None
    """How many training images are kept, drawn by draw_seed; None: all of them. The test images stay as they are."""
    label_noise: float = 0.0
    """Share of the training images that get a wrong label, drawn by draw_seed."""
    draw_seed: int = 0
    """Seed of which training images are kept or held out and which labels are wrong."""
    held_out: int = 0
    """How many training images, drawn by draw_seed, take the place of the test images: to choose settings without
    looking at the test set; 0: none."""
    train_part: str | None = None
    """I/N: one of N equal parts of the training images, the same for every seed; 0/2 to choose by, 1/2 to judge by."""

    def __post_init__(self):
        for field in ("source", "path", "name"):
            value = getattr(self, field)
            if not isinstance(value, str) and not (value is None and field != "source"):
                raise UserError(f"`{field}` must be text, got {value!r}")
        for field, smallest in SMALLEST.items():
            object.__setattr__(self, field, whole_number(field, getattr(self, field), smallest))
        if self.eval_resize is not None:
            object.__setattr__(self, "eval_resize", whole_number("eval_resize", self.eval_resize, self.image_size))
        if self.train_images is not None:
            object.__setattr__(self, "train_images", whole_number("train_images", self.train_images, 1))
        _check_part(self.train_part)
        _check_share("label_noise", self.label_noise, zero=True)
        _check_share("color_jitter", self.color_jitter, zero=True)
        _check_share("min_crop_area", self.min_crop_area, zero=False)
        if not isinstance(self.flip, bool):
            raise UserError(f"`flip` must be True or False, got {self.flip!r}")
        source = find_source(self.source)
        for field, default in (("crop_padding", 0),) if source.photos else PHOTO_FIELDS.items():
            if getattr(self, field) != default:
                kind = "makes crops of images of any size" if source.photos else "has images of one size"
                raise UserError(
                    f"`{field}` must be {default} for the source {self.source!r}, which {kind}, "
                    f"got {getattr(self, field)}"
                )
        for field in ("path", "name"):
            if field not in (*source.needs, *source.may_have) and getattr(self, field) is not None:
                raise UserError(
                    f"`{field}` must be None for the source {self.source!r}, which reads none, got "
                    f"{getattr(self, field)!r}"
                )
        for field in source.needs:
            if not getattr(self, field):
                raise UserError(f"`{field}` must be given for the source {self.source!r}, got {getattr(self, field)!r}")

    @property
    def shorter_side(self) -> int:
        """Shorter side of a test image before its centre is cut out."""
        return self.eval_resize or round(self.image_size * 256 / 224)


def _check_part(value: object) -> None:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value) if isinstance(value, str) else None
    if value is not None and not (found and int(found[1]) < int(found[2])):
        raise UserError(f"`train_part` must be I/N with I from 0 to N - 1, such as 0/2 or 1/2, got {value!r}")


def _check_share(field: str, value: object, *, zero: bool) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 < value <= 1 or (zero and value == 0):
            return
    raise UserError(f"`{field}` must be a number from 0 to 1{'' if zero else ', above 0'}, got {value!r}")


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
