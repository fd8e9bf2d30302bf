"""TFDS: a data set prepared here, mocked ones, and what is said when one cannot be used. No TensorFlow anywhere."""

import io
import itertools
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lglsq_jax import data
from lglsq_jax.errors import UserError


def png(number: int, shape: tuple[int, ...]) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(np.full(shape, number, np.uint8)).save(file, "png")
    file.seek(0)
    return file


class SmallShapes(tfds.core.GeneratorBasedBuilder):
    """Images that are all of one grey: their number."""

    VERSION = tfds.core.Version("1.2.0")
    SHAPE = (6, 5, 3)
    SPLITS = ("train", "validation")
    FEATURES = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=SHAPE), "label": tfds.features.ClassLabel(num_classes=3)}
    )

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self.FEATURES)

    def _split_generators(self, manager):
        return {split: self._generate_examples(count) for split, count in zip(self.SPLITS, (20, 7), strict=False)}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"image": png(number, (6, 5, 3)), "label": number % 3}


class NoEvaluationSplit(SmallShapes):
    """Nothing to evaluate on."""

    SPLITS = ("train",)


class ImagesOfAnyShape(SmallShapes):
    """Images whose shape is not fixed."""

    FEATURES = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    )


class NumbersForLabels(SmallShapes):
    """Labels that are not classes."""

    FEATURES = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.Scalar(np.int64)}
    )


def prepared(builder: type, folder, capsys) -> data.DataConfig:
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
    capsys.readouterr()
    return data.DataConfig(source="tfds", name=builder.name, path=str(folder), batch_size=4, eval_batch_size=3)


def test_a_prepared_data_set_is_read(tmp_path, capsys):
    config = prepared(SmallShapes, tmp_path, capsys)
    dataset = data.open_dataset(config)
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (20, 7, 3)
    assert (dataset.image_shape, dataset.name) == ((6, 5, 3), "small_shapes/1.2.0")
    np.testing.assert_allclose(dataset.mean, np.arange(20).mean() / 255)
    np.testing.assert_allclose(dataset.std, np.arange(20).std() / 255)
    evaluated = list(data.eval_batches(dataset, config))
    assert sum(int(batch["mask"].sum()) for batch in evaluated) == 7
    epoch = list(itertools.islice(data.train_batches(dataset, config, seed=0), 5))
    numbers = np.concatenate([batch["image"][:, 0, 0, 0] for batch in epoch]) * dataset.std[0] + dataset.mean[0]
    assert sorted(np.round(numbers * 255).astype(int).tolist()) == list(range(20))
    restarted = list(itertools.islice(data.train_batches(dataset, config, seed=0, first_step=3), 2))
    np.testing.assert_array_equal(restarted[1]["image"], epoch[4]["image"])
    assert dataset.fingerprint == data.open_dataset(config).fingerprint
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_well_known_data_sets_are_read(name, shape):
    config = data.DataConfig(source="tfds", name=name, path="/data", batch_size=4, eval_batch_size=5)
    with tfds.testing.mock_data(num_examples=9):
        dataset = data.open_dataset(config)
        batch = next(data.train_batches(dataset, config, seed=0))
        masks = [batch["mask"].sum() for batch in data.eval_batches(dataset, config)]
    assert (dataset.image_shape, dataset.num_classes, len(dataset.train)) == (shape, 10, 9)
    assert batch["image"].shape == (4, *shape)
    assert masks == [5, 4]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (NoEvaluationSplit, "no_evaluation_split/1.2.0 must have a split test or validation, got train"),
        (ImagesOfAnyShape, r"one fixed shape .*, got uint8 of shape \(None, None, 3\)"),
        (NumbersForLabels, r"must have the features `image` and `label` \(a class\), got image, label"),
    ],
)
def test_a_data_set_of_another_kind_is_refused(tmp_path, capsys, builder, message):
    config = prepared(builder, tmp_path, capsys)
    with pytest.raises(UserError, match=message):
        data.open_dataset(config)


@pytest.mark.parametrize("name", ["nothing_of_that_name", "mnist:9.9.9", "a/b/c/d", "a b"])
def test_an_unknown_name_is_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match=f"`name` must be a data set that TFDS .*, got '{name}'") as error:
        data.open_dataset(data.DataConfig(source="tfds", name=name, path=str(tmp_path)))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_data_set_that_is_not_prepared_comes_with_the_command(tmp_path):
    command = f"`tfds build mnist --data_dir={tmp_path} --file_format=array_record`"
    with pytest.raises(UserError, match=f"mnist is not prepared in {tmp_path}: prepare it once with {command}"):
        data.open_dataset(data.DataConfig(source="tfds", name="mnist", path=str(tmp_path)))
    assert "tensorflow" not in sys.modules


def test_a_data_set_in_a_format_without_random_access_comes_with_the_command(tmp_path, capsys):
    config = prepared(SmallShapes, tmp_path, capsys)
    (info,) = tmp_path.glob("small_shapes/1.2.0/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        UserError, match=r"train of small_shapes must be prepared for random access .*`tfds build small"
    ):
        data.open_dataset(config)


def test_a_split_without_samples_is_refused():
    with (
        tfds.testing.mock_data(num_examples=0),
        pytest.raises(UserError, match=r"split train of mnist must hold at least"),
    ):
        data.open_dataset(data.DataConfig(source="tfds", name="mnist"))


def test_damaged_files_are_named(tmp_path, capsys):
    config = prepared(SmallShapes, tmp_path, capsys)
    (file,) = tmp_path.glob("small_shapes/1.2.0/*train*")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"sample 0 of small_shapes/1.2.0 cannot be read: ") as error:
        data.open_dataset(config)
    assert "\n" not in str(error.value)
    file.unlink()
    with pytest.raises(UserError, match=r"sample 0 of small_shapes/1.2.0 cannot be read: "):
        data.open_dataset(config)
