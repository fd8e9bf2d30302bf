"""Class folders: what is listed, what is refused, and what training and evaluation make of the files."""

import itertools
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from lglsq_jax import data
from lglsq_jax.data.mock import mock_imagenet
from lglsq_jax.errors import UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return mock_imagenet(tmp_path_factory.mktemp("mock"), classes=3, train=9, val=5, smallest=20, largest=40)


@pytest.fixture
def root(written, tmp_path):
    """A folder that a test may spoil."""
    return shutil.copytree(written, tmp_path / "images")


def settings_for(root, **fields) -> data.DataConfig:
    small = {"batch_size": 6, "eval_batch_size": 4, "image_size": 12, "flip": True, "color_jitter": 0.3}
    return data.DataConfig(source="folder", path=str(root), **{**small, **fields})


def train(root, steps: int, *, damaged=None, seed=3, first_step=0, host=0, hosts=1, **fields) -> list[dict]:
    config = settings_for(root, **fields)
    stream = data.train_batches(
        data.open_dataset(config), config, seed=seed, first_step=first_step, host=host, hosts=hosts, damaged=damaged
    )
    taken = list(itertools.islice(stream, steps))
    stream.close()
    return taken


def assert_equal(left: list[dict], right: list[dict]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_the_files_are_listed_by_class_and_name(root):
    for stray in ("train/notes.txt", "train/class_000/Thumbs.db", "train/class_000/.hidden.jpg"):
        (root / stray).write_text("no image")
    dataset = data.open_dataset(settings_for(root))
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (27, 15, 3)
    assert dataset.image_shape == (12, 12, 3)
    assert (dataset.mean, dataset.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    files = dataset.train.files
    expected = sorted(map(str, root.glob("train/*/*.JPEG")))
    assert [files.where(index) for index in range(27)] == expected
    for index in (0, 9, 26):
        content, label = files.read(index)
        assert label == index // 9
        assert content == (root / expected[index]).read_bytes()


def test_the_fingerprint_follows_names_and_sizes(root):
    before = data.open_dataset(settings_for(root)).fingerprint
    assert data.open_dataset(settings_for(root)).fingerprint == before
    file = next(root.glob("train/class_001/*"))
    file.write_bytes(file.read_bytes() + b"\0")
    longer = data.open_dataset(settings_for(root)).fingerprint
    file.rename(file.with_name("zzz.jpeg"))
    assert len({before, longer, data.open_dataset(settings_for(root)).fingerprint}) == 3


def test_evaluation_is_normalized_and_in_order(root):
    config = settings_for(root)
    batches = list(data.eval_batches(data.open_dataset(config), config))
    seen = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    assert [batch["mask"].sum() for batch in batches] == [4, 4, 4, 3]
    for image, path in zip(seen, sorted(root.glob("val/*/*")), strict=True):
        picture = Image.open(path).convert("RGB")
        width, height = (14 * side // min(picture.size) for side in picture.size)
        left, top = round((width - 12) / 2), round((height - 12) / 2)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), float)
        expected = pixels[top : top + 12, left : left + 12] / 255
        expected = (expected - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        np.testing.assert_allclose(image, expected, atol=1e-5)


def test_training_starts_at_any_step_and_shows_every_image_once_an_epoch(root):
    whole = train(root, 10)
    assert_equal(train(root, 4, first_step=6), whole[6:])
    labels = np.concatenate([batch["label"] for batch in whole])
    assert np.bincount(labels[:27]).tolist() == [9, 9, 9]
    assert all(
        (one["image"] != other["image"]).any() for one, other in itertools.pairwise(train(root, 6, batch_size=27))
    )


def test_the_augmentation_of_a_place_does_not_depend_on_the_batch_size(root):
    images = [
        np.concatenate([batch["image"] for batch in train(root, 24 // size, batch_size=size)]) for size in (4, 12)
    ]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("hosts", [2, 3, 6])
def test_hosts_share_every_training_batch(root, hosts):
    parts = [train(root, 5, host=host, hosts=hosts) for host in range(hosts)]
    joined = [
        {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        for batches in zip(*parts, strict=True)
    ]
    assert_equal(joined, train(root, 5))


def spoil(root, *numbers: int) -> list[str]:
    files = sorted(root.glob("train/*/*"))
    for number in numbers:
        files[number].write_bytes(files[number].read_bytes()[:150])
    return [str(files[number]) for number in numbers]


def test_a_damaged_image_is_told_once_counted_and_replaced(root):
    intact = train(root, 9)
    paths, told = spoil(root, 4, 5, 26), []
    damaged = data.DamagedImages(data.open_dataset(settings_for(root)).train, 3, told.append)
    batches = train(root, 9, damaged=damaged)
    assert damaged.indices == [4, 5, 26]
    assert len(told) == 3
    for path in paths:
        assert sum(path in text and "cannot be decoded" in text for text in told) == 1
    assert all(batch.keys() == {"image", "label"} and batch["image"].shape == (6, 12, 12, 3) for batch in batches)
    changed = sum(
        (one["image"] != other["image"]).any((1, 2, 3)).sum() for one, other in zip(intact, batches, strict=True)
    )
    assert changed == 6  # three images in each of two epochs
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_equal(train(root, 3, first_step=6), batches[6:])
    warned = {str(warning.message).split(" cannot")[0] for warning in caught}
    assert warned and warned <= {f"the image {path}" for path in paths}


def test_more_damaged_images_than_allowed_end_the_run(root):
    spoil(root, 4, 5, 26)
    told = []
    damaged = data.DamagedImages(data.open_dataset(settings_for(root)).train, 2, told.append)
    with pytest.raises(
        UserError, match=r"`max_damaged` .* more than 2; the last is this one: the image .*/train/"
    ) as error:
        train(root, 9, damaged=damaged, max_damaged=2)
    assert len(told) == 2 and "\n" not in str(error.value)
    spoil(root, *range(27))
    with pytest.raises(UserError, match="nor can the 2 images before it"):
        train(root, 1, max_damaged=2)


def test_a_damaged_test_image_is_an_error_with_its_path(root):
    file = sorted(root.glob("val/*/*"))[7]
    file.write_bytes(b"")
    config = settings_for(root)
    with pytest.raises(UserError, match=f"the image {file} cannot be decoded: the file is empty"):
        list(data.eval_batches(data.open_dataset(config), config))


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_errors(root, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoil(root, 4)
        assert_equal(train(root, 5, workers=2), train(root, 5))
    one, two = settings_for(root), settings_for(root, workers=2)
    dataset = data.open_dataset(one)
    assert_equal(list(data.eval_batches(dataset, two)), list(data.eval_batches(dataset, one)))
    file = sorted(root.glob("val/*/*"))[7]
    file.unlink()
    with pytest.raises(UserError, match=f"the image {file} cannot be decoded: No such file"):
        list(data.eval_batches(dataset, two))
    assert capfd.readouterr().err == ""


def empty_class(root):
    shutil.rmtree(root / "train/class_001")
    (root / "train/class_001").mkdir()


def one_class(root):
    for label in ("class_001", "class_002"):
        shutil.rmtree(root / "train" / label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root), "must be a folder with train/CLASS/.* is nothing"),
        (lambda root: shutil.rmtree(root / "train"), "must be a folder with train/CLASS/.* is a folder without them"),
        (lambda root: shutil.rmtree(root / "val"), "must be a folder with .* is a folder without them"),
        (empty_class, "every class must have an image, but .*train/class_001 has no file that ends in .jpg"),
        (one_class, "train must hold at least two folders, one a class, got 1"),
        (lambda root: shutil.rmtree(root / "train/class_002"), "class_002 of .*val is not in .*train"),
        (lambda root: shutil.rmtree(root / "val/class_000"), "class_000 of .*train is not in .*val"),
        (lambda root: (root / "train/class_000/broken.jpg").symlink_to("nowhere"), "broken.jpg cannot be read"),
    ],
)
def test_a_folder_of_another_kind_is_one_sentence(root, change, message):
    change(root)
    with pytest.raises(UserError, match=message) as error:
        data.open_dataset(settings_for(root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_the_evaluation_folder_may_have_other_names(root, name):
    (root / "val").rename(root / name)
    assert len(data.open_dataset(settings_for(root)).test) == 15
