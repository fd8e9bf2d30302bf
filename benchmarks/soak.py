"""Many short epochs in one process: memory, open files, threads and compilations over time.

    python benchmarks/soak.py [--epochs 200] [--every 20] [--model resnet8]

Runs the digits, ``--epochs`` of the float and as many of the quantized phase, few steps each, with an evaluation, layer
statistics and a checkpoint after every one. It fails where the resident memory of a phase grows by more than 2 % after
the first quarter of it, where files or threads grow in number, or where anything is compiled after the first epoch of a
phase and its evaluation. Linux alone: the numbers are from /proc.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from lglsq_jax.data import DataConfig, open_dataset, steps_per_epoch
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig, run_experiment
from lglsq_jax.training.signals import StopRequest

_COMPILED = "/jax/core/compile/backend_compile_duration"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """The process after a step: seconds, resident megabytes, open files, threads."""

    seconds: float
    resident: float
    files: int
    threads: int


class Probe(StopRequest):
    """Looks at the process at every step of a run, which it never asks to stop.

    Attributes:
        samples: one a step.
        compiled: what was compiled, by the number of steps that were done before.
    """

    def __init__(self):
        super().__init__()
        self.samples: list[Sample] = []
        self.compiled: dict[int, Counter[str]] = {}
        self._began = time.monotonic()

    def count_step(self) -> None:
        """Takes a sample."""
        super().count_step()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20
        files = len(os.listdir("/proc/self/fd"))
        self.samples.append(Sample(time.monotonic() - self._began, resident, files, threading.active_count()))

    @contextlib.contextmanager
    def watching(self) -> Iterator["Probe"]:
        """Takes note of compilations meanwhile, whether or not their programs were kept by an earlier run."""

        def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
            if event == _COMPILED:
                names = self.compiled.setdefault(len(self.samples), Counter())
                names[str(kwargs.get("fun_name", "?"))] += 1

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield self
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    def late(self, first: int, last: int, steps: int) -> Counter[str]:
        """Returns what a phase of the steps ``first`` to ``last`` compiled after an epoch of ``steps`` steps.

        Whatever follows the last step of the first epoch is still its evaluation; whatever follows the last step of the
        phase is no longer training.
        """
        found: Counter[str] = Counter()
        for step, names in self.compiled.items():
            if first + steps < step < last:
                found += names
        return found


def grown(samples: list[Sample]) -> list[str]:
    """Returns what grew in the last three quarters of a phase; nothing where all is flat."""
    settled = samples[len(samples) // 4 :]
    half = len(settled) // 2
    early, late = settled[:half], settled[half:]
    found = []
    before, after = (max(sample.resident for sample in part) for part in (early, late))
    if after > 1.02 * before:
        found.append(f"memory from {before:.0f} to {after:.0f} MB")
    for name in ("files", "threads"):
        before, after = (max(getattr(sample, name) for sample in part) for part in (early, late))
        if after > before:
            found.append(f"{name} from {before} to {after}")
    return found


def experiment(model: str, epochs: int) -> TrainConfig:
    """Returns a run of few steps an epoch."""
    return TrainConfig(
        data=DataConfig(source="digits", batch_size=240, eval_batch_size=360, crop_padding=1),
        model=ModelConfig(model, stem_stride=2),
        pretraining=PretrainingConfig(epochs=epochs, learning_rate=0.05),
        quantized=QuantizedConfig(epochs=epochs, learning_rate=0.02, calibration_batches=1),
    )


def main() -> int:
    """Prints the table; returns 1 where something grows or is compiled again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="epochs between two lines of the table")
    parser.add_argument("--model", default="resnet8")
    options = parser.parse_args()
    config, probe = experiment(options.model, options.epochs), Probe()
    steps = steps_per_epoch(open_dataset(config.data), config.data)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, probe.watching():
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            run_experiment(config, Path(folder) / "run", probe)
    wrong = []
    print(f"{options.model}, {options.epochs} epochs of {steps} steps a phase, evaluation and checkpoint after each")
    print(f"{'phase':12}{'epoch':>6}{'s':>8}{'resident MB':>13}{'files':>7}{'threads':>9}{'compiled so far':>17}")
    for number, phase in enumerate(("float", "quantized")):
        first, last = number * options.epochs * steps, (number + 1) * options.epochs * steps
        samples = probe.samples[first:last]
        for epoch in sorted({1, *range(options.every, options.epochs, options.every), options.epochs}):
            sample = samples[epoch * steps - 1]
            so_far = sum(names.total() for step, names in probe.compiled.items() if step < first + epoch * steps)
            print(f"{phase:12}{epoch:6}{sample.seconds:8.0f}{sample.resident:13.0f}{sample.files:7}{sample.threads:9}"
                  f"{so_far:17}")  # fmt: skip
        wrong += [f"{phase}: {text}" for text in grown(samples)]
        late = probe.late(first, last, steps)
        if late:
            names = ", ".join(f"{name} {count} times" for name, count in late.most_common(8))
            wrong.append(f"{phase}: compiled after its first epoch: {names}")
    for sentence in wrong:
        print(f"FAILED: {sentence}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
