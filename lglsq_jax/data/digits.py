"""The 1,797 handwritten digits, 8×8, that scikit-learn carries: 1,437 to train on, 360 to test on."""

import numpy as np

from .arrays import from_arrays
from .config import DataConfig
from .dataset import Dataset


def read(config: DataConfig) -> Dataset:
    """The digits, their 17 grey levels spread over 0 to 255. Sorted by class, every fifth image is a test image.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository (1998), test part.
    """
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    images = np.round(np.asarray(grey).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = np.asarray(labels)
    by_class = np.argsort(labels, kind="stable")
    is_test = np.zeros(len(labels), bool)
    is_test[by_class[::5]] = True
    return from_arrays("digits", images[~is_test], labels[~is_test], images[is_test], labels[is_test])
