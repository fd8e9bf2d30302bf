"""An exported ONNX file in ONNX Runtime, on the whole test set of the run that it comes from."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data import Dataset
from ..errors import UserError
from ..integer import IntegerProgram
from .config import TrainConfig
from .deploy import test_images

SAME_CLASS = 0.99
"""The fraction of samples of which a QDQ model must choose the program's class: it may differ at rounding ties."""
FLOAT_ERROR = 1e-5
"""What float32 may add to a logit, relative to the largest one of its sample."""


@dataclasses.dataclass(frozen=True)
class OnnxReport:
    """What an ONNX model gave, against the integer program.

    Attributes:
        samples: number of images.
        integers: whether the model's logits are the int32 ones (the integer form) or real numbers (QDQ).
        equal_logits: samples all of whose logits are equal: int32 to the bit; float32 within ``FLOAT_ERROR`` of the
            sample's largest one, so that no code before them differs.
        max_logit_difference: largest difference of two logits, in their real unit.
        same_class: samples for which both choose the same class.
        top1: of the ONNX model, a fraction.
        program_top1: of the integer program, a fraction.
        runtime: name and version of what ran it.
    """

    samples: int
    integers: bool
    equal_logits: int
    max_logit_difference: float
    same_class: int
    top1: float
    program_top1: float
    runtime: str

    @property
    def failed(self) -> str:
        """In what the model is not the program, one sentence; empty where it is."""
        if self.integers and self.equal_logits < self.samples:
            return f"the int32 logits of {self.samples - self.equal_logits} of {self.samples} samples differ"
        if self.same_class < SAME_CLASS * self.samples:
            return f"{self.samples - self.same_class} of {self.samples} samples get another class"
        return ""

    def __str__(self) -> str:
        kind, equal = ("int32", "equal to") if self.integers else ("float32", f"within {FLOAT_ERROR:g} of")
        return (
            f"{self.runtime} on {self.samples:,} test images: {kind} logits {equal} the program's for "
            f"{self.equal_logits:,} (largest difference {self.max_logit_difference:.3g}), same class for "
            f"{self.same_class:,}, top-1 {100 * self.top1:.2f} % (program {100 * self.program_top1:.2f} %)"
        )


def check_onnx(path: str | os.PathLike, program: IntegerProgram, dataset: Dataset, config: TrainConfig) -> OnnxReport:
    """Runs an ONNX file of a program, of either form, over the whole test set and compares it with the program.

    Raises:
        UserError: the package onnxruntime is missing, or it cannot run the file.
    """
    session, runtime = _session(path)
    inputs = [entry.name for entry in session.get_inputs()]
    takes_codes = inputs[0].startswith("codes")
    samples = equal = same = correct = program_correct = 0
    difference, integers = 0.0, False
    for batch in test_images(program, dataset, config):
        codes = program.encode(batch["image"])
        given: Sequence[Any] = (codes if isinstance(codes, tuple) else (codes,)) if takes_codes else (batch["image"],)
        feeds = {name: np.asarray(array) for name, array in zip(inputs, given, strict=True)}
        (found,) = session.run(["logits"], feeds)
        accumulators = program.integer_body(codes)
        integers = found.dtype == np.int32
        expected = np.asarray(accumulators if integers else program.decode(accumulators))
        unit = program.output_step if integers else 1.0
        apart = np.abs(found.astype(np.float64) - expected)  # in float64 two int32 cannot overflow
        allowed = 0 if integers else FLOAT_ERROR * np.abs(expected).max(-1, keepdims=True)
        equal += int((apart <= allowed).all(-1).sum())
        difference = max(difference, unit * float(apart.max()))
        chosen, program_chosen = found.argmax(-1), np.asarray(accumulators).argmax(-1)
        same += int((chosen == program_chosen).sum())
        correct += int((chosen == batch["label"]).sum())
        program_correct += int((program_chosen == batch["label"]).sum())
        samples += len(chosen)
    assert samples == len(dataset.test), f"checked {samples} of {len(dataset.test)} samples"
    return OnnxReport(samples, integers, equal, difference, same, correct / samples, program_correct / samples, runtime)


def _session(path: str | os.PathLike) -> tuple[Any, str]:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "checking an ONNX model needs the package onnxruntime, which is not installed: "
            "pip install 'lglsq_jax[export]'"
        ) from None
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class
        raise UserError(f"ONNX Runtime cannot run {os.fspath(path)}: {str(error).splitlines()[0]}") from None
    return session, f"ONNX Runtime {onnxruntime.__version__}"
