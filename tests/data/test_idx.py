"""The four IDX files: what was written is read, with and without gzip; every kind of damage is one sentence."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from lglsq_jax import data
from lglsq_jax.data.idx import FILES, read_idx
from lglsq_jax.errors import UserError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


def encode(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def contents() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 5, 4), dtype=np.uint8)
    labels = np.arange(13) % 3
    arrays = dict(zip(FILES, (pixels[:9], labels[:9], pixels[9:], labels[9:]), strict=True))
    return {name: encode(array) for name, array in arrays.items()}


def write(folder: Path, files: dict[str, bytes], suffix: str = ".gz") -> data.DataConfig:
    for name, content in files.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return data.DataConfig(source="idx", path=str(folder), batch_size=2)


@given(array=array_shapes(min_dims=1, max_dims=3, max_side=4).flatmap(lambda shape: arrays(np.uint8, shape)))
def test_an_array_survives_the_format(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("idx") / "array"
    path.write_bytes(encode(array))
    np.testing.assert_array_equal(read_idx(path, array.ndim), array)


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_a_folder_is_read(tmp_path, suffix):
    dataset = data.open_dataset(write(tmp_path, contents(), suffix))
    assert (len(dataset.train), len(dataset.test)) == (9, 4)
    assert (dataset.num_classes, dataset.image_shape, dataset.name) == (3, (5, 4, 1), "idx")
    assert encode(dataset.train.images[..., 0]) == contents()[TRAIN_IMAGES]
    assert encode(dataset.test.labels) == contents()[TEST_LABELS]


def test_the_fingerprint_does_not_depend_on_where_and_how_files_are_stored(tmp_path):
    fingerprints = set()
    for suffix in (".gz", ""):
        folder = tmp_path / f"folder{suffix}"
        folder.mkdir()
        fingerprints.add(data.open_dataset(write(folder, contents(), suffix)).fingerprint)
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (TRAIN_LABELS, None, f"must also hold {TRAIN_LABELS} "),
        (TRAIN_IMAGES, lambda file: b"\0\0\x08\x01" + file[4:], "magic number 0x00000803 .*, got 0x00000801"),
        (TRAIN_IMAGES, lambda file: b"", "magic number 0x00000803 .*, got 0x$"),
        (TRAIN_IMAGES, lambda file: b"\0\0\x0d\x03" + file[4:], "got 0x00000d03"),
        (TRAIN_IMAGES, lambda file: file[:10], "is truncated: it must hold a header of 16 bytes, got 10 bytes"),
        (
            TRAIN_IMAGES,
            lambda file: file[:-1],
            r"is truncated: it must hold 180 bytes for the shape \(9, 5, 4\).*got 179",
        ),
        (TRAIN_IMAGES, lambda file: file + b"\0", r"gz must hold 180 bytes for the shape .*, got 181"),
        (TRAIN_IMAGES, lambda file: struct.pack(">4I", 0x803, 0, 5, 4), r"must hold at least one value, .*\(0, 5, 4\)"),
        (TRAIN_IMAGES, lambda file: file[:4] + b"\xff" * 12, "is truncated: it must hold 7922816"),
        (TRAIN_LABELS, lambda file: encode(np.arange(8) % 3), "got 9 images and 8 labels"),
        (TRAIN_LABELS, lambda file: encode(np.arange(9) % 3 * 100), f"{TRAIN_LABELS}.gz` has none of class 1 "),
        (TEST_LABELS, lambda file: encode(np.full(4, 9)), f"{TEST_LABELS}.gz` must be between 0 and 2, .*, got 9"),
        (
            TEST_IMAGES,
            lambda file: encode(np.zeros((4, 4, 5))),
            rf"{TEST_IMAGES}.gz` must have .*\(5, 4, 1\).*\(4, 5, 1\)",
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path, name, change, message):
    files = contents()
    content = files.pop(name)
    if change:
        files[name] = change(content)
    config = write(tmp_path, files)
    with pytest.raises(UserError, match=message) as error:
        data.open_dataset(config)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file[: len(file) // 2], "is truncated: the gzip file must be complete"),
        (lambda file: file[:-4], "is truncated: the gzip file must be complete"),
        (lambda file: b"plain" + file, "must be a whole gzip file"),
        (lambda file: file[:-8] + bytes(8), "must be a whole gzip file"),
        (lambda file: file[:12] + b"\xff" * 20 + file[32:], "must be a whole gzip file"),
    ],
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage, message):
    config = write(tmp_path, contents())
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{TRAIN_IMAGES}.gz {message}"):
        data.open_dataset(config)


@pytest.mark.parametrize(("suffix", "reader"), [(".gz", "gzip.open"), ("", "pathlib.Path.read_bytes")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, suffix, reader):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    config = write(tmp_path, contents(), suffix)
    monkeypatch.setattr(reader, refuse)
    with pytest.raises(UserError, match=rf"{TRAIN_IMAGES}{suffix} cannot be read: Permission denied$"):
        data.open_dataset(config)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"`path` must be a folder with the files .*, .*/nowhere is nothing"):
        data.open_dataset(data.DataConfig(source="idx", path=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=f"must also hold {' and '.join(FILES)} "):
        data.open_dataset(data.DataConfig(source="idx", path=str(tmp_path)))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"file is a file$"):
        data.open_dataset(data.DataConfig(source="idx", path=str(file)))
