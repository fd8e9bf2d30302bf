"""Fewer training images, and wrong labels."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lglsq_jax.data import DataConfig, Dataset, from_arrays, open_dataset, train_batches
from lglsq_jax.data.dataset import AugmentedSamples
from lglsq_jax.data.draw import drawn
from lglsq_jax.errors import UserError


def numbered(count: int = 60, classes: int = 5) -> Dataset:
    """Images whose pixel is their number."""
    images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    return from_arrays("numbered", images, np.arange(count) % classes, images[:classes], np.arange(classes))


def config(**fields) -> DataConfig:
    return DataConfig(batch_size=1, **fields)


def numbers(dataset: Dataset) -> list[int]:
    return [int(sample["image"][0, 0, 0]) for sample in each(dataset)]


def labels(dataset: Dataset) -> np.ndarray:
    return np.array([sample["label"] for sample in each(dataset)])


def judged_by(dataset: Dataset) -> tuple[list[int], list[int]]:
    samples = [dataset.test[index] for index in range(len(dataset.test))]
    return [int(sample["image"][0, 0, 0]) for sample in samples], [sample["label"] for sample in samples]


def each(dataset: Dataset):
    return [dataset.train[index] for index in range(len(dataset.train))]


@dataclasses.dataclass(frozen=True)
class Lazy:
    """Samples that are made when they are asked for, as those of files."""

    of: Dataset

    def __len__(self):
        return len(self.of.train)

    def __getitem__(self, index):
        return self.of.train[index]


class LazyAugmented(Lazy):
    """The same, augmenting by themselves."""

    def augmented(self, index, random):
        return {**self[index], "image": self[index]["image"] + np.uint8(100)}


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32))
@settings(max_examples=60)
def test_so_many_images_and_exactly_so_many_wrong_labels(count, noise, seed):
    found = drawn(numbered(), config(train_images=count, label_noise=noise, draw_seed=seed))
    kept = numbers(found)
    assert len(kept) == len(set(kept)) == count
    true = np.array(kept) % 5
    assert (labels(found) != true).sum() == round(noise * count)
    assert set(labels(found).tolist()) <= set(range(5))
    assert len(found.test) == 5 and (found.mean, found.std) == (numbered().mean, numbered().std)


def test_noise_alone_leaves_the_images_in_their_order():
    found = drawn(numbered(), config(label_noise=0.5))
    assert numbers(found) == list(range(60))


def test_fewer_images_are_a_part_of_more():
    few, more = (numbers(drawn(numbered(), config(train_images=count))) for count in (10, 30))
    assert more[:10] == few
    assert numbers(drawn(numbered(), config(train_images=10, draw_seed=1))) != few


@given(st.integers(1, 25), st.integers(0, 29), st.sampled_from([None, "0/2", "1/2"]), st.integers(0, 2**32))
@settings(max_examples=60)
def test_held_out_images_take_the_place_of_the_test_images_and_are_never_trained_on(count, held_out, part, seed):
    count = min(count, 30 - held_out)
    wanted = config(train_images=count, held_out=held_out, train_part=part, draw_seed=seed, label_noise=0.5)
    found = drawn(numbered(), wanted)
    kept, (judged, true) = set(numbers(found)), judged_by(found)
    assert len(kept) == count
    if not held_out:
        return
    assert len(judged) == len(set(judged)) == held_out and not kept & set(judged)
    assert true == [number % 5 for number in judged]


def test_parts_divide_the_training_images_and_no_seed_changes_them():
    parts = [set(numbers(drawn(numbered(), config(train_part=f"{index}/3")))) for index in range(3)]
    assert sorted(number for part in parts for number in part) == list(range(60))
    assert parts[1] == set(numbers(drawn(numbered(), config(train_part="1/3", draw_seed=9))))
    held = drawn(numbered(), config(train_part="1/3", held_out=19))
    assert set(numbers(held)) | set(judged_by(held)[0]) == parts[1]


def test_wrong_labels_are_any_of_the_others():
    moved = (labels(drawn(numbered(), config(label_noise=1.0))) - labels(numbered())) % 5
    assert set(moved.tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize("kind", [Lazy, LazyAugmented])
def test_samples_of_files_are_drawn_as_those_in_memory(kind):
    plain = numbered()
    wanted = config(train_images=20, label_noise=0.4, draw_seed=3)
    lazy = drawn(dataclasses.replace(plain, train=kind(plain)), wanted)
    assert numbers(lazy) == numbers(drawn(plain, wanted))
    np.testing.assert_array_equal(labels(lazy), labels(drawn(plain, wanted)))
    assert isinstance(lazy.train, AugmentedSamples) == (kind is LazyAugmented)
    if isinstance(lazy.train, AugmentedSamples):
        sample = lazy.train.augmented(7, np.random.default_rng(0))
        assert sample["label"] == lazy.train[7]["label"]
        np.testing.assert_array_equal(sample["image"], lazy.train[7]["image"] + np.uint8(100))


def test_the_fingerprint_tells_draws_apart_and_nothing_else_changes_it():
    fields = [{}, {"train_images": 30}, {"label_noise": 0.1}, {"label_noise": 0.1, "draw_seed": 1}]
    fields += [{"held_out": 10}, {"train_part": "0/2"}, {"train_part": "1/2"}, {"train_part": "1/2", "held_out": 10}]
    found = [open_dataset(config(**each)).fingerprint for each in fields]
    assert len(set(found)) == len(fields)
    assert open_dataset(config(draw_seed=5)).fingerprint == found[0]
    assert open_dataset(config(label_noise=0.1)).fingerprint == found[2]


def test_a_run_sees_the_drawn_images():
    wanted = DataConfig(batch_size=32, train_images=32, label_noise=0.25)
    dataset = open_dataset(wanted)
    stream = train_batches(dataset, wanted, seed=0)
    batch = next(stream)
    stream.close()
    assert sorted(batch["label"].tolist()) == sorted(labels(dataset).tolist())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train_images": 0}, "`train_images` must be a whole number of at least 1, got 0"),
        ({"train_images": 2000}, "`train_images` must be at most 1437, the number of training images of digits"),
        ({"label_noise": 1.5}, "`label_noise` must be a number from 0 to 1, got 1.5"),
        (
            {"held_out": 1437},
            "`held_out` must be below 1437, the number of training images of digits there are, got 1437",
        ),
        (
            {"held_out": 1000, "train_images": 500},
            "`train_images` must be at most 437, the number of training images of digits that are left, got 500",
        ),
        (
            {"train_part": "1500/9000"},
            "`train_part` must be one of at most 1437 parts, .* got '1500/9000', which is empty",
        ),
        ({"train_part": "2/2"}, "`train_part` must be I/N with I from 0 to N - 1, such as 0/2 or 1/2, got '2/2'"),
        ({"draw_seed": -1}, "`draw_seed` must be a whole number of at least 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused(fields, words):
    with pytest.raises(UserError, match=words):
        open_dataset(config(**fields))


def test_a_batch_larger_than_what_is_kept_is_refused():
    with pytest.raises(UserError, match="`batch_size` must be between 1 and 20"):
        open_dataset(DataConfig(batch_size=32, train_images=20))
