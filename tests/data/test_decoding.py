"""Every kind of picture becomes RGB; whatever is no whole picture has a reason, and nothing warns."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lglsq_jax.data import decoding
from lglsq_jax.data.decoding import Undecodable, decode

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_lossless_files_give_their_pixels(kind):
    np.testing.assert_array_equal(decode(encoded(RGB, kind)), RGB)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpegs_of_every_mode_become_rgb(mode):
    smooth = RGB.resize((2, 2)).resize((40, 40))
    decoded = decode(encoded(smooth.convert(mode), "jpeg", quality=95))
    assert (decoded.mode, decoded.size) == ("RGB", (40, 40))
    difference = np.asarray(decoded, int) - np.asarray(smooth.convert(mode).convert("RGB"), int)
    assert abs(difference).mean() < 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_pngs_of_every_mode_become_rgb(mode):
    image = RGB.convert(mode)
    np.testing.assert_array_equal(decode(encoded(image, "png")), image.convert("RGB"))


def test_a_palette_with_transparency_and_webp_become_rgb():
    assert decode(encoded(RGB.convert("P"), "png", transparency=bytes([0, 128]))).mode == "RGB"
    assert decode(encoded(RGB, "webp", lossless=True)).getpixel((3, 4)) == RGB.getpixel((3, 4))


def test_sixteen_bits_keep_the_upper_eight():
    grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    decoded = np.asarray(decode(encoded(Image.fromarray(grey), "png")))
    np.testing.assert_array_equal(decoded, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, 2))


def test_damaged_exif_is_passed_over_in_silence():
    jpeg = encoded(RGB, "jpeg")
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x09\x01\x1a\0\x05\0\0"
    damaged = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[20:]
    np.testing.assert_array_equal(decode(damaged), decode(jpeg))


def huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "not a JPEG, PNG, BMP or WebP file"),
        (b"GIF89a" + bytes(20), "not a JPEG, PNG, BMP or WebP file"),
        (encoded(RGB.resize((60, 60)), "jpeg")[:-200], "truncated"),
        (encoded(RGB.resize((60, 60)), "jpeg")[:200], "."),
        (encoded(RGB, "png")[:-40], "."),
        (huge_png(), f"20000x20000 are more than {decoding.MOST_PIXELS} pixels"),
        (b"\xff\xd8\xff" + bytes(50), "."),
        (b"RIFF" + bytes(50), "."),
        (b"BM" + bytes(50), "."),
    ],
    ids=range(10),
)
def test_what_is_no_whole_picture_has_a_reason(data, reason):
    with pytest.raises(Undecodable, match=reason) as error:
        decode(data)
    assert str(error.value) and "\n" not in str(error.value)
