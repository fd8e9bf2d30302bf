"""One NumPy file with the four arrays ``train_images``, ``train_labels``, ``test_images``, ``test_labels``."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import UserError
from .arrays import ARRAYS, from_arrays
from .config import DataConfig
from .dataset import Dataset


def read(config: DataConfig) -> Dataset:
    """Reads the file ``config.path``, as ``numpy.savez`` and ``numpy.savez_compressed`` write it. Nothing is unpickled.

    Raises:
        UserError: the file or an array is missing or damaged, or the arrays are not as ``from_arrays`` needs them.
    """
    path = Path(str(config.path)).expanduser()
    if not path.is_file():
        what = "a folder" if path.exists() else "nothing"
        raise UserError(f"`path` must be an .npz file with the arrays {', '.join(ARRAYS)}, {path} is {what}")
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} must be a whole .npz file as numpy.savez writes it, got damaged or other content")
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            if missing:
                raise UserError(
                    f"{path} must also hold the arrays {', '.join(missing)}, got {', '.join(file.files) or 'none'}"
                )
            arrays = [file[name] for name in ARRAYS]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} must hold plain arrays of numbers, got damaged or other content ({error})") from None
    return from_arrays("npz", *arrays)
