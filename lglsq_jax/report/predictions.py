"""What a network says about every test image: the confusion matrix, and its mistakes in the order of its certainty."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One row a test image, in the order of the data set.

    Attributes:
        labels: the true classes [n].
        classes: the predicted ones [n].
        certainty: the softmax probability of the predicted class [n].
        num_classes: how many classes there are.
    """

    labels: Int[np.ndarray, "n"]
    classes: Int[np.ndarray, "n"]
    certainty: Float[np.ndarray, "n"]
    num_classes: int

    @property
    def top1(self) -> float:
        """The fraction that is right."""
        return float(np.mean(self.labels == self.classes))

    @property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        """How often each true class (row) was given each class (column)."""
        matrix = np.zeros((self.num_classes, self.num_classes), np.int64)
        np.add.at(matrix, (self.labels, self.classes), 1)
        return matrix

    @property
    def mistakes(self) -> Int[np.ndarray, "m"]:
        """The indices of the images that got a wrong class, the most certain first."""
        wrong = np.flatnonzero(self.labels != self.classes)
        return wrong[np.argsort(-self.certainty[wrong], kind="stable")]

    def confused_pairs(self, most: int) -> list[tuple[int, int, int]]:
        """Returns the pairs (true class, predicted class, how often) that occur most often, at most ``most``."""
        matrix = self.confusion
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:most]
        pairs = (np.unravel_index(place, matrix.shape) for place in order)
        return [(int(row), int(column), int(matrix[row, column])) for row, column in pairs if matrix[row, column]]


def predict(network: Callable, batches: Iterable[dict], num_classes: int) -> Predictions:
    """Returns what ``network`` says.

    Args:
        network: from images to logits [n k].
        batches: with ``image`` and ``label``.
        num_classes: how many logits an image has.
    """
    labels, classes, certainty = [], [], []
    for batch in batches:
        logits = np.asarray(network(batch["image"]), np.float64)
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        labels.append(np.asarray(batch["label"]))
        classes.append(logits.argmax(-1))
        certainty.append(shifted.max(-1) / shifted.sum(-1))
    return Predictions(np.concatenate(labels), np.concatenate(classes), np.concatenate(certainty), num_classes)
