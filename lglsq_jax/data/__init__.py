"""Images and labels, from a source that the user names to batches for training and evaluation.

``open_dataset(config)`` reads a source (see ``sources.py``: adding one is a file and a line), ``train_batches`` and
``eval_batches`` make batches of it. Nothing heavy is imported before a source is opened or a batch is asked for.
"""

from .arrays import from_arrays
from .config import DataConfig
from .damaged import DamagedImages
from .dataset import ArraySamples, Dataset, Samples, normalize
from .pipeline import eval_batches, steps_per_epoch, train_batches
from .sources import SOURCES, open_dataset

__all__ = [
    "SOURCES",
    "ArraySamples",
    "DamagedImages",
    "DataConfig",
    "Dataset",
    "Samples",
    "eval_batches",
    "from_arrays",
    "normalize",
    "open_dataset",
    "steps_per_epoch",
    "train_batches",
]
