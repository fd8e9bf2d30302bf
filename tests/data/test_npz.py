"""The NumPy file: what was saved is read, nothing is unpickled, every kind of damage is one sentence."""

import io

import numpy as np
import pytest

from lglsq_jax import data
from lglsq_jax.errors import UserError


def four():
    random = np.random.default_rng(0)
    return {
        "train_images": random.integers(0, 256, (9, 5, 4, 3), dtype=np.uint8),
        "train_labels": np.arange(9) % 3,
        "test_images": random.integers(0, 256, (4, 5, 4, 3), dtype=np.uint8),
        "test_labels": np.arange(4) % 3,
    }


def config(path) -> data.DataConfig:
    return data.DataConfig(source="npz", path=str(path), batch_size=2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_is_read(tmp_path, save):
    path = tmp_path / "data.npz"
    save(path, **four(), unused=np.zeros(3))
    dataset = data.open_dataset(config(path))
    assert (dataset.num_classes, dataset.image_shape, dataset.name) == (3, (5, 4, 3), "npz")
    np.testing.assert_array_equal(dataset.train.images, four()["train_images"])
    np.testing.assert_array_equal(dataset.test.labels, four()["test_labels"])
    assert dataset.fingerprint == data.from_arrays("npz", **four()).fingerprint


class Trap:
    """An object whose unpickling would be noticed."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "must also hold the arrays train_images, train_labels, test_images, test_labels, got none"),
        ({"train_images": four()["train_images"], "y": np.zeros(1)}, "arrays train_labels, .*, got train_images, y$"),
        ({**four(), "train_labels": np.array([Trap()] * 9)}, "must hold plain arrays of numbers"),
        ({**four(), "train_images": four()["train_images"] / 255}, "`train_images` must be uint8 .*, got float64"),
        ({**four(), "test_labels": -np.arange(4)}, "`test_labels` must be 0 or more, got -3"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        data.open_dataset(config(path))


def saved(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def flipped(content: bytes) -> bytes:
    middle = content.index(four()["train_images"].tobytes()) + 50
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: b"", "damaged or other content"),
        (lambda file: b"no zip file at all", "damaged or other content"),
        (lambda file: file[: len(file) // 2], "damaged or other content"),
        (flipped, "damaged or other content"),
        (lambda file: file.replace(b"(9, 5, 4, 3)", b"(9, 5, 4, 9)"), "damaged or other content"),
        (lambda file: file.replace(b"NUMPY", b"NIMPY"), "damaged or other content"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, message):
    path = tmp_path / "data.npz"
    path.write_bytes(damage(saved(**four())))
    with pytest.raises(UserError, match=message) as error:
        data.open_dataset(config(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "data.npz"
    np.savez(path, **four())
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(UserError, match=r"data.npz cannot be read: Permission denied$"):
        data.open_dataset(config(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"`path` must be an .npz file with the arrays .*/nowhere.npz is nothing"):
        data.open_dataset(config(tmp_path / "nowhere.npz"))
    with pytest.raises(UserError, match=r" is a folder$"):
        data.open_dataset(config(tmp_path))
