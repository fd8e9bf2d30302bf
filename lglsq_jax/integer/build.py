"""Making nodes: fixed point, clipping and rearranging of affine values."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from .affine import Affine
from .arrange import Attributes, arrange_constants
from .dimensions import Shape
from .errors import LoweringError
from .node import INT32_MAX, Node, aligned, compact, expanded

_FIXED_LARGEST = 2**30
_MOST_FRACTION_BITS = 126  # the step stays a normal float32


@dataclasses.dataclass
class Names:
    """Gives every quantizer of the model's values a name of its own: its module's path, numbered where it repeats."""

    seen: dict[str, int] = dataclasses.field(default_factory=dict)

    def next(self, path: str) -> str:
        """Returns ``path``, or ``path#2`` and so on from the second call with the same path."""
        path = path or "quantizer"
        self.seen[path] = self.seen.get(path, 0) + 1
        return path if self.seen[path] == 1 else f"{path}#{self.seen[path]}"


def rescale(
    value: Affine, step: np.ndarray | np.float64, offset, low: int, high: int, path: str, name: str = ""
) -> Node:
    """Returns the node ``clip(round((value - offset) / step), low, high)``: one rounding of the whole sum."""
    step = aligned(np.asarray(step, np.float64), len(value.shape))
    constants = {f"scale{index}": scale / step for index, (_, scale) in enumerate(value.terms)}
    constants["bias"] = (value.bias - offset) / step
    least, most = value.bounds()
    ends = np.sort(np.stack(np.broadcast_arrays((least - offset) / step, (most - offset) / step)), axis=0)
    limit = 2.0**62
    bounds = np.clip(np.rint(np.clip(ends, -limit, limit)), low, high).astype(np.int64)
    return Node(
        "rescale",
        tuple(node for node, _ in value.terms),
        value.shape,
        compact(bounds[0]),
        compact(bounds[1]),
        {"low": int(low), "high": int(high)},
        constants,
        path,
        name,
    )


def fixed_point(
    value: Affine, path: str, *, low=-math.inf, high=math.inf, spare: int = 1, limit: float = _FIXED_LARGEST
) -> Affine:
    """Returns ``clip(value, low, high)`` as one int32 tensor, rounded to as many fraction bits as surely fit.

    Args:
        value: what to round; on no unquantized input.
        path: module that it stands in.
        low: clip, in real units.
        high: clip, in real units.
        spare: how many such numbers must be summed within int32.
        limit: bound on such a sum.

    Raises:
        LoweringError: the value depends on the unquantized input.
    """
    check_quantized(value, path)
    only = value.only_term()
    if only is not None and low == -math.inf and high == math.inf and only[1].size == 1 and only[1].flat[0] > 0:
        if only[0].largest * spare <= (INT32_MAX if limit == _FIXED_LARGEST else limit):
            return value
    least, most = value.bounds()
    largest = max(abs(np.clip(least, low, high)).max(), abs(np.clip(most, low, high)).max())
    step = finest_step(float(largest) * spare, limit)
    ends = [INT32_MAX if math.isinf(end) else min(round(abs(end) / step), INT32_MAX) for end in (low, high)]
    signs = [-1 if end < 0 else 1 for end in (low, high)]
    node = rescale(value, np.float64(step), 0.0, signs[0] * ends[0], signs[1] * ends[1], path)
    return Affine.from_node(node, step)


def common_fixed_point(values: Sequence[Affine], path: str) -> tuple[list[Node], float]:
    """Returns the values as integer tensors of one and the same step, and that step.

    Raises:
        LoweringError: a value depends on the unquantized input.
    """
    for value in values:
        check_quantized(value, path)
    terms = [value.only_term() for value in values]
    steps = {float(term[1].flat[0]) if term is not None and term[1].size == 1 else math.nan for term in terms}
    if len(steps) == 1 and min(steps) > 0:
        return [term[0] for term in terms if term is not None], steps.pop()
    step = finest_step(max(float(np.abs(end).max()) for value in values for end in value.bounds()))
    return [rescale(value, np.float64(step), 0.0, -INT32_MAX, INT32_MAX, path) for value in values], step


def check_quantized(value: Affine, path: str) -> None:
    """Refuses a value of the unquantized input.

    Raises:
        LoweringError: naming the module.
    """
    if value.is_float:
        raise LoweringError(f"{_module(path)} computes with the unquantized input of the model; quantize it first")


def finest_step(largest: float, limit: float = _FIXED_LARGEST) -> float:
    """Returns the smallest power of two in whose units numbers up to ``largest`` surely stay within ``limit``."""
    bits = _MOST_FRACTION_BITS if largest == 0 else math.floor(math.log2(limit / largest))
    return 2.0 ** -min(bits, _MOST_FRACTION_BITS)


def clip(value: Affine, low: float, high: float, path: str) -> Affine:
    """Returns ``clip(value, low, high)``: on the integers themselves where the bounds are whole, or in fixed point.

    A clip of a clip, such as ReLU6 as a maximum and a minimum, is one clip of what the first one clipped: the fixed
    point of the first has a step for values as large as a sum may become, which is coarse for those that are left.
    """
    check_quantized(value, path)
    if value.clipped is not None:
        value, inner_low, inner_high = value.clipped
        low, high = min(max(inner_low, low), high), max(min(inner_high, high), low)
    least, most = value.bounds()
    if (least >= low).all() and (most <= high).all():
        return value
    only = value.only_term()
    if only is not None and only[1].size == 1 and only[1].flat[0] > 0:
        node, scale = only[0], float(only[1].flat[0])
        least, most = int(node.low.min()), int(node.high.max())
        ends = max(low / scale, least), min(high / scale, most)
        if all(least <= end <= most and float(end).is_integer() for end in ends):
            lowest, highest = int(ends[0]), int(ends[1])
            clipped = Node(
                "clip",
                (node,),
                node.shape,
                np.clip(node.low, lowest, highest),
                np.clip(node.high, lowest, highest),
                {"low": lowest, "high": highest},
                path=path,
            )
            return dataclasses.replace(Affine.from_node(clipped, scale), clipped=(value, low, high))
    return dataclasses.replace(fixed_point(value, path, low=low, high=high), clipped=(value, low, high))


def rearranged(op: str, attributes: Attributes, shape: Shape, path: str, *values: Affine) -> Affine:
    """Returns an affine value whose elements are rearranged by ``op``; several values only for ``concatenate``.

    Values of several terms are rearranged term by term; ``concatenate`` joins values of one term each, and their scales
    and biases, so that branches with scales of their own need no rounding.
    """
    if op == "concatenate":
        singles = [value if len(value.terms) == 1 else fixed_point(value, path) for value in values]
        nodes = tuple(single.terms[0][0] for single in singles)
        scale = _joined(attributes, [(single.terms[0][1], single.shape) for single in singles])
        bias = _joined(attributes, [(single.bias, single.shape) for single in singles])
        low = _joined(attributes, [(node.low, node.shape) for node in nodes])
        high = _joined(attributes, [(node.high, node.shape) for node in nodes])
        node = Node(op, nodes, shape, low, high, dict(attributes), path=path)
        return Affine.of([(node, scale)], bias, shape)
    (value,) = values

    def constants(array: np.ndarray, of: Shape) -> np.ndarray:
        if array.size == 1 and op != "pad":
            return array.reshape((1,) * len(shape))
        return compact(arrange_constants(op, attributes, expanded(array, of)))

    terms = []
    for node, scale in value.terms:
        low, high = constants(node.low, node.shape), constants(node.high, node.shape)
        scale = scale if op == "pad" and _repeats(scale, attributes) else constants(scale, value.shape)
        if node.op == "constant":
            codes = arrange_constants(op, attributes, node.constants["codes"])
            terms.append((constant(codes, path), scale))
        else:
            terms.append((Node(op, (node,), shape, low, high, dict(attributes), path=path), scale))
    return Affine.of(terms, constants(value.bias, value.shape), shape)


def constant(codes: np.ndarray, path: str, name: str = "") -> Node:
    """Returns a node for integer codes known at lowering time; bounds are those of the whole tensor."""
    low, high = (np.full((1,) * codes.ndim, end(codes, initial=0), np.int64) for end in (np.min, np.max))
    return Node("constant", (), codes.shape, low, high, constants={"codes": codes}, path=path, name=name)


def _joined(attributes: Attributes, arrays: list[tuple[np.ndarray, Shape]]) -> np.ndarray:
    return compact(np.concatenate([expanded(*pair) for pair in arrays], attributes["axis"]))


def _repeats(scale: np.ndarray, attributes: Attributes) -> bool:
    """Whether a scale is constant along every axis that is padded."""
    return all(
        size == 1 or tuple(pads) == (0, 0, 0) for size, pads in zip(scale.shape, attributes["padding"], strict=True)
    )


def _module(path: str) -> str:
    return f"module {path!r}" if path else "the model"
