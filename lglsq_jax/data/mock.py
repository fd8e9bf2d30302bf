"""A small folder of class folders with real JPEGs, for trying out the whole way before the real data are there."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from .config import whole_number
from .folder import EVALUATION_FOLDERS, TRAINING_FOLDER

GREY_EVERY, CMYK_EVERY = 7, 11


def mock_imagenet(
    folder: str | Path,
    *,
    classes: int = 4,
    train: int = 32,
    val: int = 8,
    smallest: int = 40,
    largest: int = 80,
    seed: int = 0,
) -> Path:
    """Writes ``train/CLASS/*.JPEG`` and ``val/CLASS/*.JPEG`` for the source ``folder`` and returns the folder.

    A class is a direction and a width of stripes and a colour that goes with it, so that a small network can learn it
    in a few epochs, also from grey pictures; phase, brightness and noise differ. Every 7th picture is grey and every
    11th CMYK, as some of ImageNet's are. The same arguments give the same files.

    Args:
        folder: new or empty.
        classes: number of classes.
        train: training images a class.
        val: test images a class.
        smallest: smallest height or width.
        largest: largest height or width.
        seed: of everything random.

    Raises:
        UserError: the folder has something in it or cannot be written, or an argument is out of range.
    """
    folder = Path(folder).expanduser()
    for argument, value, least in (("classes", classes, 2), ("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        whole_number(argument, value, least)
    whole_number("largest", largest, whole_number("smallest", smallest, 1))
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"`folder` must be new or empty, {folder} has something in it")
        number = 0
        for part, count in ((TRAINING_FOLDER, train), (EVALUATION_FOLDERS[0], val)):
            for label in range(classes):
                below = folder / part / f"class_{label:03d}"
                below.mkdir(parents=True)
                for _ in range(count):
                    random = np.random.default_rng([seed, number])
                    (below / f"{part}_{number:05d}.JPEG").write_bytes(
                        _jpeg(label, classes, number, random, smallest, largest)
                    )
                    number += 1
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from None
    return folder


def _jpeg(label: int, classes: int, number: int, random: np.random.Generator, smallest: int, largest: int) -> bytes:
    height, width = random.integers(smallest, largest + 1, 2)
    rows, columns = np.mgrid[:height, :width] / min(height, width)
    angle = math.pi * label / classes
    wave = np.sin(2 * math.pi * (3 * (rows * math.sin(angle) + columns * math.cos(angle)) + random.random()))
    hue = 2 * math.pi * (label / classes + np.arange(3) / 3)
    pixels = (
        128
        + random.uniform(-20, 20)
        + 50 * wave[..., None]
        + 40 * np.cos(hue)
        + random.normal(0, 12, (height, width, 3))
    )
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    picture = picture.convert("L" if number % GREY_EVERY == 3 else "CMYK" if number % CMYK_EVERY == 5 else "RGB")
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
