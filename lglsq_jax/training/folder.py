"""A run's folder: whose config it has, who is using it, and where its files are."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import PARTLY, read_json, write_json, writing
from .config import TrainConfig, as_dict, differences, from_dict

_PACKAGES = ("lglsq_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

# What a run that goes on may have otherwise: where and how it runs, not what it computes.
MAY_CHANGE = ("mesh.", "data.workers ", "checkpoint_every ", "keep_checkpoints ", "skip_bad_steps ")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """The config as it was resolved, JSON."""
        return self.path / "config.json"

    @property
    def environment_file(self) -> Path:
        """Versions and devices of the first start, JSON."""
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line: ``step``, ``phase``, ``split`` and values."""
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        """The results, JSON; its presence says that the run is finished."""
        return self.path / "summary.json"

    @property
    def bad_steps_file(self) -> Path:
        """One JSON object a line: steps whose loss or gradient was not finite, with the indices of their images."""
        return self.path / "bad_steps.jsonl"

    @property
    def bits_file(self) -> Path:
        """The bits of each layer where the run chose them, JSON: ``weights`` and ``inputs`` by path."""
        return self.path / "bits.json"

    @property
    def program_file(self) -> Path:
        """The integer program."""
        return self.path / "integer" / "program.safetensors"

    def checkpoints(self, phase: str) -> Path:
        """The folder of a phase's checkpoints."""
        return self.path / "checkpoints" / phase

    def weights_file(self, kind: str) -> Path:
        """The ``float`` or ``fake_quantized`` network's arrays as safetensors."""
        return self.path / "weights" / f"{kind}.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.summary_file.exists()

    @classmethod
    def existing(cls, path: str | os.PathLike) -> tuple["RunFolder", TrainConfig]:
        """Returns the folder of a run that was started, and its config.

        Raises:
            UserError: there is no such folder, or it is not a run's.
        """
        folder = cls(Path(path))
        if not folder.path.is_dir():
            what = "is a file" if folder.path.exists() else "does not exist"
            raise UserError(f"the run folder must be a folder that exists, got {os.fspath(path)!r}, which {what}")
        if not folder.config_file.exists():
            raise UserError(f"the run folder must hold config.json, but {os.fspath(path)!r} has none; is it a run?")
        return folder, from_dict(read_json(folder.config_file))

    @contextlib.contextmanager
    def claimed(self, config: TrainConfig) -> Iterator[None]:
        """Makes the folder, or checks that it is of the same config, and keeps other processes out meanwhile.

        Raises:
            UserError: it has another config (the differing fields are named), is not a run's, cannot be made, or
                another process is using it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.config_file.exists() and any(map(_foreign, self.path.iterdir())):
                raise UserError(f"the run folder must be new or a run's, but {self.path} holds other files")
            lock = (self.path / "run.lock").open("a")
        except OSError as error:
            raise UserError(f"cannot use the run folder {self.path}: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"the run folder {self.path} is in use by another process") from None
            except OSError as error:  # a file system without locks
                raise UserError(f"cannot lock the run folder {self.path}: {error.strerror}") from None
            self._settle(config)
            yield

    def changes(self, config: TrainConfig) -> list[str]:
        """Returns the fields in which the run's config is another one, with both values, as ``differences`` does."""
        before, wanted = as_dict(from_dict(read_json(self.config_file))), as_dict(config)
        if _same_place(before["pretraining"]["start_from"], wanted["pretraining"]["start_from"]):
            before["pretraining"]["start_from"] = wanted["pretraining"]["start_from"]
        return [text for text in differences(before, wanted) if not text.startswith(MAY_CHANGE)]

    def _settle(self, config: TrainConfig) -> None:
        wanted = as_dict(config)
        if self.config_file.exists() and (changed := self.changes(config)):
            raise UserError(
                f"the run folder {self.path} belongs to another config, which differs in {', '.join(changed)}; "
                "name another folder with --run-dir"
            )
        with writing(f"to the run folder {self.path}"):
            write_json(self.config_file, wanted)
            if not self.environment_file.exists():
                write_json(self.environment_file, environment())


def _same_place(before: str | None, now: str | None) -> bool:
    """Whether two spellings, such as one that begins with ``/`` and one that does not, are of one folder."""
    return before is not None and now is not None and Path(before).resolve() == Path(now).resolve()


def _foreign(entry: Path) -> bool:
    """Whether a start that failed, or was killed before it had written its config, cannot have left this behind."""
    return entry.name != "run.lock" and not entry.name.startswith(PARTLY)


def environment() -> dict[str, Any]:
    """Returns what a result may depend on: versions, machine, devices."""
    import jax

    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "devices": f"{jax.device_count()} {device.platform} ({device.device_kind})",
        "command": sys.argv,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # this one, run from a clone
        return "not installed"
