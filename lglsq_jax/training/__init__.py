"""Training: configs, the loop over a mesh of devices, checkpoints, and the run as a whole.

``run_experiment(config, run_dir)`` is what ``train.py`` calls. The pieces stand alone too: ``Skeleton`` takes an nnx
model apart for pure functions, ``make_optimizer`` gives scales their own group, ``Checkpoints`` saves any pytree.
"""

import importlib

_WHERE = {
    "ModelConfig": "config",
    "PhaseConfig": "config",
    "PretrainingConfig": "config",
    "QuantizedConfig": "config",
    "TrainConfig": "config",
    "Checkpoints": "checkpoints",
    "RunFolder": "folder",
    "Skeleton": "skeleton",
    "Stopped": "signals",
    "BrokenPromise": "experiment",
    "hold_above": "optimizer",
    "make_optimizer": "optimizer",
    "make_schedule": "optimizer",
    "run_experiment": "experiment",
    "train_alone": "experiment",
}

__all__ = list(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    """Imports a name when it is first used, so that ``--help`` does not wait for orbax and grain."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
