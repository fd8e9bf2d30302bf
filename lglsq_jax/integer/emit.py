"""From the graph to a list of instructions: fixed-point constants, fused rescales, nothing that is not used."""

import collections
from collections.abc import Sequence

import numpy as np

from .affine import Affine
from .dimensions import encode
from .errors import LoweringError
from .fixed import FixedPoint, fixed_point_constants, split
from .narrow import narrow_constants
from .nearest import is_code, made_nearest, nearest_steps
from .node import Node, smallest_dtype
from .program import Instruction, IntegerProgram


def emit(output: Affine, inputs: Sequence[Node]) -> IntegerProgram:
    """Returns the program that computes an affine value of one term from the model's inputs."""
    (node, scale), *_ = output.terms
    order = _ordered(node)
    _share_constants(order)
    _fuse(order)
    order = [*(source for source in inputs), *(step for step in _ordered(node) if step.op != "input")]
    numbers = {id(step): index for index, step in enumerate(order)}
    instructions = [_instruction(step, numbers) for step in order]
    return IntegerProgram(
        instructions=tuple(instructions),
        input_shapes=tuple(source.shape for source in inputs),
        input_dtypes=tuple(source.attributes["dtype"] for source in inputs),
        output_step=float(scale.flat[0]),
    )


def _ordered(output: Node) -> list[Node]:
    """Returns the nodes that the output needs, each after its inputs."""
    order: list[Node] = []
    seen: set[int] = set()
    stack = [(output, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((term, False) for term in reversed(node.inputs))
    return order


def _share_constants(order: list[Node]) -> None:
    """Lets every use of the same weights read the same constant, so that a shared layer is stored once."""
    first: dict[tuple, Node] = {}

    def one(node: Node) -> Node:
        if node.op != "constant":
            return node
        codes = node.constants["codes"]
        return first.setdefault((codes.shape, codes.tobytes()), node)

    for node in order:
        node.inputs = tuple(map(one, node.inputs))


def _fuse(order: list[Node]) -> None:
    """Lets a rescale to codes read the sum behind a fixed-point tensor that nobody else reads: one rounding fewer."""
    uses = collections.Counter(id(term) for node in order for term in node.inputs)
    for node in order:
        if node.op != "rescale" or len(node.inputs) != 1:
            continue
        (inner,) = node.inputs
        factor, bias = node.constants["scale0"], node.constants["bias"]
        single = inner.op == "rescale" and not inner.name and uses[id(inner)] == 1
        if not single or factor.size != 1 or bias.size != 1 or float(factor.flat[0]) <= 0:
            continue
        scale, shift = float(factor.flat[0]), float(bias.flat[0])
        ends = [np.rint(inner.attributes[end] * scale + shift) for end in ("low", "high")]
        limits = node.attributes["low"], node.attributes["high"]
        node.attributes["low"], node.attributes["high"] = (int(np.clip(end, *limits)) for end in ends)
        node.constants = {name: array * scale for name, array in inner.constants.items() if name != "bias"}
        node.constants["bias"] = inner.constants["bias"] * scale + shift
        node.inputs = inner.inputs


def _fixed(node: Node) -> FixedPoint | None:
    """Returns the constants of a rescale; None where a staircase has to make its codes."""
    if not is_code(node):
        return fixed_point_constants(node)
    try:
        fixed = fixed_point_constants(node)
    except LoweringError:
        return None  # so steep that one number of a channel is within the clip: which one, the staircase tells
    return narrow_constants(node, fixed) or made_nearest(node, fixed)


def _instruction(node: Node, numbers: dict[int, int]) -> Instruction:
    op, attributes, constants = node.op, dict(node.attributes), dict(node.constants)
    fixed = _fixed(node) if op == "rescale" else None
    if fixed is not None and is_code(node):
        attributes["nearest"] = True
    if op == "rescale" and fixed is None:
        op, attributes = "staircase", {"dtype": smallest_dtype(node.attributes["low"], node.attributes["high"])}
        thresholds, values = nearest_steps(node)
        constants = {"thresholds": thresholds.astype(np.int32), "values": values.astype(attributes["dtype"])}
    elif fixed is not None:
        attributes["shift"] = fixed.shift
        if any(fixed.term_shifts):
            attributes["term_shifts"] = fixed.term_shifts
        attributes["clamp"] = None if fixed.clamp is None else [list(half) for half in fixed.clamp]
        attributes["dtype"] = smallest_dtype(node.attributes["low"], node.attributes["high"])
        constants = {f"multiplier{index}": array for index, array in enumerate(fixed.multipliers)}
        constants["bias_high"], constants["bias_low"] = split(fixed.bias)
    elif node.op == "constant":
        attributes["bits"] = node.code_bits
        attributes["signed"] = bool(node.low.min() < 0)
        constants = {"codes": constants["codes"].astype(np.int8 if attributes["signed"] else np.uint8)}
    elif node.op == "encode":
        attributes["dtype"] = smallest_dtype(node.attributes["low"], node.attributes["high"])
    return Instruction(
        op=op,
        inputs=tuple(numbers[id(term)] for term in node.inputs),
        shape=tuple(encode(node.shape)),
        low=int(node.low.min()),
        high=int(node.high.max()),
        attributes=attributes,
        constants=constants,
        path=node.path,
        name=node.name,
    )
