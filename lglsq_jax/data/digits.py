"""The 1,797 handwritten digits, 8×8, that scikit-learn carries: 1,437 to train on, 360 to test on."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .arrays import from_arrays
from .config import DataConfig
from .dataset import Dataset


def read(config: DataConfig) -> Dataset:
    """The digits, their 17 grey levels spread over 0 to 255. Sorted by class, every fifth image is a test image.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository (1998), test part.
    """
    grey, labels = _digits()
    images = np.round(grey.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    by_class = np.argsort(labels, kind="stable")
    is_test = np.zeros(len(labels), bool)
    is_test[by_class[::5]] = True
    return from_arrays("digits", images[~is_test], labels[~is_test], images[is_test], labels[is_test])


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns what ``sklearn.datasets.load_digits`` does, from its file: importing scikit-learn takes over a second."""
    spec = find_spec("sklearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    return np.asarray(grey), np.asarray(labels)
