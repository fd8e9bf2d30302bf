"""From the bytes of an image file to an RGB picture, or the reason why there is none."""

import importlib
import io
import struct

import numpy as np
from PIL import Image

MOST_PIXELS = 89_478_485  # Pillow's own limit, a quarter of a gigabyte of RGB; more is a decompression bomb
READERS = (
    (b"\xff\xd8\xff", "JpegImagePlugin", "JpegImageFile"),
    (b"\x89PNG\r\n\x1a\n", "PngImagePlugin", "PngImageFile"),
    (b"BM", "BmpImagePlugin", "BmpImageFile"),
    (b"RIFF", "WebPImagePlugin", "WebPImageFile"),
)
"""First bytes of a file, and Pillow's module and class for it. What a file is called does not matter: one ``.JPEG`` of
ImageNet is a PNG."""


class Undecodable(ValueError):
    """The bytes are not a whole picture; the message says in a few words why."""


def decode(data: bytes) -> Image.Image:
    """The picture in a JPEG, PNG, BMP or WebP file, as 8-bit RGB.

    Grey pictures get three equal channels, CMYK and palettes are converted, alpha is dropped, 16-bit grey keeps its
    upper 8 bits. Turns that EXIF asks for are not made, as in TorchVision.

    Pillow's class for the format is called directly: ``Image.open`` warns of large pictures and of damaged EXIF data,
    and warnings cannot be caught where several threads decode.

    Raises:
        Undecodable: the data are cut off, damaged, of another format, or have more than ``MOST_PIXELS`` pixels.
    """
    if not data:
        raise Undecodable("the file is empty")
    try:
        image = _reader(data)(io.BytesIO(_without_exif(data)))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise Undecodable(f"{width}x{height} are more than {MOST_PIXELS} pixels")
        image.load()
        return _to_rgb(image)
    except Undecodable:
        raise
    except Exception as error:  # each of Pillow's readers has its own kinds
        text = str(error).strip().splitlines()
        raise Undecodable(text[0] if text else type(error).__name__) from None


def to_picture(data: bytes | np.ndarray) -> Image.Image:
    """As ``decode``; pixels that were decoded before, uint8 [h w 3], are taken as they are."""
    return Image.fromarray(data) if isinstance(data, np.ndarray) else decode(data)


def _reader(data: bytes):
    for start, module, name in READERS:
        if data.startswith(start):
            return getattr(importlib.import_module(f"PIL.{module}"), name)
    raise Undecodable("it is not a JPEG, PNG, BMP or WebP file")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns of it
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _without_exif(data: bytes) -> bytes:
    """A JPEG without its EXIF data, which Pillow reads for the resolution and warns of where they are damaged."""
    if not data.startswith(b"\xff\xd8"):
        return data
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and 0xE0 <= data[at + 1] <= 0xEF:  # the APP segments at the start
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] != 0xE1:
            kept.append(data[at:end])
        at = end
    kept.append(data[at:])
    return b"".join(kept) if len(kept) > 1 else data
