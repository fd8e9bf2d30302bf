"""Proof by comparison: the codes of the fake-quantized model against those of its integer program."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from ..batches import Inputs, calls
from ..primitives import QUANTIZE_NAME, clip_codes, normalise
from .build import Names
from .dimensions import decode, resolve, sized
from .lower import check_evaluation_mode
from .program import IntegerProgram
from .trace import Trace, Variable, trace

NEAR = 1e-3
"""How close to the middle between two codes a value must lie for a code to differ by rounding alone, in codes."""


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer's input codes, model against program.

    Attributes:
        path: the layer.
        equal_fraction: fraction of codes that are the same, from the image on.
        max_difference: largest difference between two codes, from the image on.
        codes: number of codes compared.
        own_equal_fraction: fraction of codes that are the same where all layers before got the model's own codes.
        own_difference: largest difference then: what the layer itself adds. It is 1 at a rounding tie, and never more
            in a program that is right.
        own_unexplained: number of codes that differ then and are no rounding tie: by more than 1, or further than
            ``NEAR`` from the middle between the two codes. 0 in a program that is right.
    """

    path: str
    equal_fraction: float
    max_difference: int
    codes: int
    own_equal_fraction: float
    own_difference: int
    own_unexplained: int


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` found.

    Attributes:
        layers: one report a layer, in the order of the network.
        top1_agreement: fraction of samples for which model and program choose the same class.
        samples: number of samples compared.
        tied_samples: samples in which some code differs by rounding alone: in the first layer where its codes differ,
            each differing value lies within ``NEAR`` of the middle between the two codes.
        unexplained: samples whose class differs although none of their codes was a tie and the logits of the two
            classes were not; 0 when the program is right.
        max_logit_difference: largest difference between two logits.
    """

    layers: tuple[LayerReport, ...]
    top1_agreement: float
    samples: int
    tied_samples: int
    unexplained: int
    max_logit_difference: float

    @property
    def equal_fraction(self) -> float:
        """The smallest fraction of equal codes of any layer, from the image on."""
        return min((layer.equal_fraction for layer in self.layers), default=1.0)

    @property
    def own_equal_fraction(self) -> float:
        """The smallest fraction of equal codes that a layer makes of the model's own codes."""
        return min((layer.own_equal_fraction for layer in self.layers), default=1.0)

    @property
    def max_difference(self) -> int:
        """The largest difference of any code, from the image on."""
        return max((layer.max_difference for layer in self.layers), default=0)

    @property
    def own_difference(self) -> int:
        """The largest difference of any code that a layer makes of the model's own codes."""
        return max((layer.own_difference for layer in self.layers), default=0)

    @property
    def own_unexplained(self) -> int:
        """How many codes of all layers differ from what the model makes of the same, and are no rounding tie."""
        return sum(layer.own_unexplained for layer in self.layers)

    def __str__(self) -> str:
        width = max([len(layer.path) for layer in self.layers] + [5])
        lines = [f"{''.ljust(width)}  of the layer alone           from the image on"]
        lines.append(f"{'layer'.ljust(width)}  equal codes  largest diff.  equal codes  largest diff.")
        for layer in self.layers:
            lines.append(
                f"{layer.path.ljust(width)}  {100 * layer.own_equal_fraction:9.4f} %  {layer.own_difference:13}  "
                f"{100 * layer.equal_fraction:9.4f} %  {layer.max_difference:13}"
            )
        lines.append(
            f"same class for {100 * self.top1_agreement:.3f} % of {self.samples:,} samples; "
            f"{self.tied_samples:,} with a rounding tie, {self.unexplained:,} unexplained"
        )
        return "\n".join(lines)


def verify(model: nnx.Module | Callable, program: IntegerProgram, batches: Iterable[Inputs]) -> VerifyReport:
    """Compares every layer's codes, the logits and the chosen class over batches of inputs.

    The program runs twice: from the image on, and once more with the model's codes in place of its own before each
    layer, which tells what a layer adds from what it was handed.

    Args:
        model: the fake-quantized model that the program was lowered from, in evaluation mode.
        program: its integer program.
        batches: inputs as the model takes them; a tuple each where it takes several.

    Raises:
        ValueError: the model is in training mode, there is no batch, the model does not take as many arrays as a batch
            holds, or the layers of model and program are not the same.
        TypeError: ``batches`` are one array, or a batch is neither an array nor a tuple of arrays.
    """
    if isinstance(model, nnx.Module):
        check_evaluation_mode(model)
    compare, paths = None, []
    totals: dict[str, np.ndarray] = {}
    agreed = samples = tied = unexplained = 0
    logit_difference = 0.0
    for inputs in calls(model, batches):
        if not len(inputs[0]):
            continue
        if compare is None:
            compare, paths = _comparison(trace(model, *inputs), program)
        counts_of, same, tie, unexcused, difference = compare(inputs, program.encode(*inputs))
        for path, counts in zip(paths, counts_of, strict=True):
            previous = totals.get(path, np.zeros(6, np.int64))
            counts = np.asarray(counts, np.int64)
            totals[path] = np.concatenate([previous[:4] + counts[:4], np.maximum(previous[4:], counts[4:])])
        samples += len(inputs[0])
        agreed, tied, unexplained = agreed + int(same), tied + int(tie), unexplained + int(unexcused)
        logit_difference = max(logit_difference, float(difference))
    if not samples:
        raise ValueError("`batches` must hold at least one sample to verify on, got none")
    reports = tuple(
        LayerReport(
            path,
            equal_fraction=float(equal / max(count, 1)),
            max_difference=int(largest),
            codes=int(count),
            own_equal_fraction=float(own_equal / max(count, 1)),
            own_difference=int(own),
            own_unexplained=int(own_unexplained),
        )
        for path, (count, equal, own_equal, own_unexplained, largest, own) in totals.items()
    )
    return VerifyReport(reports, agreed / samples, samples, tied, unexplained, logit_difference)


def _comparison(traced: Trace, program: IntegerProgram) -> tuple[Callable, list[str]]:
    """Returns the compiled comparison of a batch, and the layers that it reports on, in the order of the network."""
    names = [name for name, *_ in _quantizers(traced)]
    named = [step.name for step in program.instructions if step.name]
    if sorted(names) != sorted(named):
        different = sorted(set(names) ^ set(named))
        raise ValueError(
            f"`program` is not of this model: their quantized layers differ in {', '.join(different) or 'number'}"
        )

    shapes = {step.name: decode(list(step.shape)) for step in program.instructions if step.name}
    # Weights go in as arguments: as constants of the compiled function they would be folded, slowly.
    arrays = {
        id(operand): operand
        for equation in traced.equations
        for operand in equation.operands
        if not isinstance(operand, Variable)
    }

    @jax.jit
    def observe(arrays, inputs):
        """The model's codes by layer, whether each lies near the middle between two codes, and the logits."""
        normalised, logits = _run(traced, arrays, inputs)
        codes, near = {}, {}
        for name, (values, low, high) in normalised.items():
            codes[name] = jnp.round(clip_codes(values, low, high)).astype(jnp.int16)
            near[name] = jnp.abs(values - jnp.floor(values) - 0.5) < NEAR
        return codes, near, logits

    def run(inputs, codes):
        expected, near, logits = observe(arrays, inputs)
        for name in names:
            shape = resolve(shapes[name], len(inputs[0]))
            if expected[name].shape != shape:
                raise ValueError(
                    f"`program` is not of this model: the codes of layer {name!r} have shape "
                    f"{list(shape)}, not {list(expected[name].shape)}"
                )
        produced, accumulators = program.replay(codes, expected, False)
        alone, _ = program.replay(codes, expected, True)
        excused = settled = jnp.zeros(len(inputs[0]), bool)
        counts = []
        for name in names:
            found, excused, settled = _compare_layer(
                expected[name], near[name], produced[name], alone[name], excused, settled
            )
            counts.append(found)
        rest = _compare_logits(logits, program.decode(accumulators), program.output_step, excused)
        counts, rest = jax.device_get((counts, rest))
        return [(produced[name].size, *found) for name, found in zip(names, counts, strict=True)], *rest

    return run, names


# One function a layer, of which those of equal shape share one compiled form.
@jax.jit
def _compare_layer(expected, near, produced, alone, excused, settled):
    """Counts what differs in a layer.

    Args:
        expected: the model's codes.
        near: which of them lie near the middle between two codes.
        produced: the program's codes, from the image on.
        alone: those that it makes of the model's.
        excused: samples whose first differing codes are ties, of the layers before.
        settled: samples of which an earlier layer differed.

    Returns the counts, and ``excused`` and ``settled`` with this layer.
    """
    samples = len(excused)
    difference, own = (jnp.abs(expected - codes.astype(jnp.int16)) for codes in (produced, alone))
    explained, own_explained = ((apart == 0) | ((apart == 1) & near) for apart in (difference, own))
    different = _by_sample(difference > 0, samples).any(1)
    excused = excused | (different & ~settled & _by_sample(explained, samples).all(1))
    counts = (difference == 0).sum(), (own == 0).sum(), (~own_explained).sum(), difference.max(), own.max()
    return counts, excused, settled | different


@jax.jit
def _compare_logits(logits, integer, step, excused):
    same, tied = _same_class(logits, integer, step)
    return same.sum(), excused.sum(), (~same & ~excused & ~tied).sum(), jnp.abs(logits - integer).max()


def _same_class(logits, integer, step):
    if logits.ndim == 1:  # one number a sample: its only class
        logits, integer = logits[:, None], integer[:, None]
    flat, other = logits.reshape(-1, logits.shape[-1]), integer.reshape(-1, integer.shape[-1])
    first, second = flat.argmax(-1), other.argmax(-1)
    rows = jnp.arange(len(flat))
    gap = jnp.abs(flat[rows, first] - flat[rows, second])
    near = gap <= 4 * step + 1e-6 * jnp.abs(flat).max(-1)
    shape = (len(logits), -1)
    return (first == second).reshape(shape).all(1), near.reshape(shape).all(1)


def _by_sample(mask, samples: int):
    return mask.reshape(samples, -1)


def _quantizers(traced: Trace):
    """Yields the name and the equation of every quantizer that depends on the input, in order."""
    names, depends = Names(), set(traced.arguments)
    for equation in traced.equations:
        if any(operand in depends for operand in equation.operands if isinstance(operand, Variable)):
            depends.update(equation.results)
            if equation.primitive.name == QUANTIZE_NAME and equation.operands[0] in depends:
                yield names.next(equation.path), equation


def _run(traced: Trace, arrays: dict[int, Array], inputs):
    """Runs the model's own equations and returns ``{name: (v, low, high)}`` of its quantizers, and its logits."""
    values = dict(zip(traced.arguments, inputs, strict=True))
    quantizers = {id(equation): name for name, equation in _quantizers(traced)}
    normalised = {}

    def read(operand):
        return values[operand] if isinstance(operand, Variable) else arrays[id(operand)]

    for equation in traced.equations:
        operands = [read(operand) for operand in equation.operands]
        if id(equation) in quantizers:
            value, scale, *offset = operands
            v = normalise(value - offset[0] if offset else value, scale)
            params = equation.params
            normalised[quantizers[id(equation)]] = v, params["minimum"], params["maximum"]
        results = equation.primitive.bind(*operands, **sized(equation.params, traced.batch, len(inputs[0])))
        results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.results, results, strict=True))
    return normalised, read(traced.result)
