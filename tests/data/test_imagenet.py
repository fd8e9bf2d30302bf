"""ImageNet by TFDS and by folders: exactly what it must be, and decoded here."""

import io
import itertools
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lglsq_jax import data
from lglsq_jax.data import imagenet
from lglsq_jax.data.mock import mock_imagenet
from lglsq_jax.errors import UserError


def jpeg(number: int) -> io.BytesIO:
    pixels = np.full((30, 20 + number % 5, 3), 8 * number, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    file.seek(0)
    return file


with tfds.core.registered.skip_registration():

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        """A few JPEGs prepared as TFDS prepares ImageNet; the third training image is damaged."""

        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1000),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(12), "validation": self._generate_examples(7)}

        def _generate_examples(self, count):
            for number in range(count):
                file = io.BytesIO(b"\xff\xd8\xff no") if count == 12 and number == 3 else jpeg(number)
                yield number, {"image": file, "label": number * 80, "file_name": f"n{number}.JPEG"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Imagenet2012(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def settings_for(path, **fields) -> data.DataConfig:
    small = {"batch_size": 4, "eval_batch_size": 3, "image_size": 16}
    return data.DataConfig(source="imagenet", path=None if path is None else str(path), **{**small, **fields})


def test_prepared_data_are_decoded_here(prepared, monkeypatch, capsys):
    monkeypatch.setattr(imagenet, "TEST_IMAGES", 7)
    config = settings_for(prepared)
    dataset = data.open_dataset(config)
    assert (dataset.name, len(dataset.train), len(dataset.test)) == ("imagenet2012/5.1.0", 12, 7)
    assert (dataset.num_classes, dataset.image_shape) == (1000, (16, 16, 3))
    content, _ = dataset.test.files.read(2)
    assert isinstance(content, bytes) and content.startswith(b"\xff\xd8")
    batches = list(data.eval_batches(dataset, config))
    labels = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    assert sorted(labels.tolist()) == [80 * number for number in range(7)]
    np.testing.assert_allclose(
        images * dataset.std + dataset.mean, (labels / 10 / 255)[:, None, None, None] + np.zeros((16, 16, 3)), atol=0.01
    )
    told = []
    stream = data.train_batches(dataset, config, seed=0, damaged=data.DamagedImages(dataset.train, 1, told.append))
    assert [batch["image"].shape for batch in itertools.islice(stream, 3)] == [(4, 16, 16, 3)] * 3
    stream.close()
    assert len(told) == 1 and "(n3.JPEG) of imagenet2012/5.1.0, train cannot be decoded" in told[0]
    assert "tensorflow" not in sys.modules


def test_a_shard_that_is_missing_is_one_sentence(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "TEST_IMAGES", 7)
    shutil.copytree(prepared, tmp_path / "copy")
    for shard in (tmp_path / "copy").rglob("*-train.array_record*"):
        shard.unlink()
    with pytest.raises(UserError, match=r"^sample 0 of imagenet2012, train cannot be read: "):
        data.open_dataset(settings_for(tmp_path / "copy"))


def test_another_number_of_test_images_is_refused(prepared):
    with pytest.raises(UserError, match=r"of imagenet2012/5.1.0 must be 50,000, .* got 7; for other data .* 'folder'"):
        data.open_dataset(settings_for(prepared))


def test_mock_data_of_tfds_go_the_whole_way():
    config = settings_for(None)
    with tfds.testing.mock_data(num_examples=5):
        dataset = data.open_dataset(config)
        batch = next(data.train_batches(dataset, config, seed=0))
        masks = [int(batch["mask"].sum()) for batch in data.eval_batches(dataset, config)]
    assert batch["image"].shape == (4, 16, 16, 3)
    assert masks == [3, 2]
    assert "tensorflow" not in sys.modules


def test_class_folders_are_read_and_counted(tmp_path, monkeypatch):
    config = settings_for(mock_imagenet(tmp_path / "mock", classes=3, train=2, val=2))
    with pytest.raises(UserError, match=r"the class folders of .* must be 1,000, as in ImageNet, got 3; .* 'folder'"):
        data.open_dataset(config)
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    with pytest.raises(UserError, match=r"the test images of .* must be 50,000, as in ImageNet, got 6"):
        data.open_dataset(config)
    monkeypatch.setattr(imagenet, "TEST_IMAGES", 6)
    dataset = data.open_dataset(config)
    assert (dataset.name, len(dataset.train)) == ("imagenet", 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"path": "/nowhere/at/all"},
            "`path` must be a folder with train and val, or of prepared TFDS data, .* is nothing",
        ),
        ({"name": "cifar10"}, "`name` must be imagenet2012 or one of its versions .* got 'cifar10'"),
    ],
)
def test_what_is_not_imagenet_is_one_sentence(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        data.open_dataset(settings_for(**{"path": tmp_path, **fields}))


def test_data_that_are_not_prepared_come_with_the_command(tmp_path):
    with pytest.raises(UserError, match=r"imagenet2012 is not prepared in .*`tfds build imagenet2012 --data_dir="):
        data.open_dataset(settings_for(tmp_path))
