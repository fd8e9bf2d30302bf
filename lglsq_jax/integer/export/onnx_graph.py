"""An ONNX graph under construction: named nodes, constants stored once, every value with its shape and type.

The program keeps channels last, ONNX wants them first. So a value says which axis of the program each axis of its
tensor holds (``order``); a converter asks for the order it needs, and a transpose appears only where orders differ.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..dimensions import Batch, Dim, Shape
from ..program import Instruction

Order = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        name: of the ONNX value.
        dtype: of its elements.
        shape: as the program has it.
        order: ``order[i]`` is the program's axis that axis ``i`` of the tensor holds.
    """

    name: str
    dtype: np.dtype
    shape: Shape
    order: Order

    @property
    def stored_shape(self) -> Shape:
        """The shape of the tensor itself."""
        return tuple(self.shape[axis] for axis in self.order)

    def axis(self, axis: int) -> int:
        """Returns where the tensor holds an axis of the program."""
        return self.order.index(axis)


def plain_order(ndim: int) -> Order:
    """Returns the order in which the program has the axes."""
    return tuple(range(ndim))


def channels_first(ndim: int) -> Order:
    """Returns the order of ONNX's convolutions for the program's ``[n, *spatial, c]``."""
    return (0, ndim - 1, *range(1, ndim - 1))


def dimension_name(dim: Dim) -> int | str:
    """Returns a size as ONNX annotates it: a number, ``batch``, or ``3*batch``."""
    if isinstance(dim, Batch):
        return "batch" if dim.times == 1 else f"{dim.times}*batch"
    return dim


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    """Returns the shape that shapes broadcast to, as NumPy has it."""
    ndim = max(map(len, shapes))
    columns = zip(*((1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    return tuple(next((dim for dim in column if dim != 1), 1) for column in columns)


class Graph:
    """Collects nodes and constants. ``at(step)`` says whose names the next nodes bear.

    Attributes:
        opset: the operator set.
        wide_sums: whether what runs the model adds products of bytes in 32 bits, not two of them in 16.
    """

    def __init__(self, opset: int, *, wide_sums: bool = False):
        self.opset, self.wide_sums = opset, wide_sums
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[Value] = []
        self._annotations: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple, str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._used: collections.Counter[str] = collections.Counter()
        self._reordered: dict[tuple[str, Order], Value] = {}
        self._made: dict[tuple[str, ...], Value] = {}
        self._batch_sizes: dict[int, str] = {}
        self._scope = ""

    def at(self, step: Instruction) -> None:
        """Names what follows after an instruction: ``layer1/0/conv1/convolve``."""
        self._scope = "/".join(part for part in (step.path, step.op) if part)

    @contextlib.contextmanager
    def within(self, step: Instruction) -> Iterator[None]:
        """Names what is added inside after an instruction."""
        before = self._scope
        self.at(step)
        yield
        self._scope = before

    def _unique(self, name: str) -> str:
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}_{self._used[name]}"

    def add_input(self, name: str, dtype: Any, shape: Shape) -> Value:
        """Adds an input of the graph, its axes as in the program."""
        self._used[name] += 1
        value = Value(name, np.dtype(dtype), shape, plain_order(len(shape)))
        self.inputs.append(value)
        return value

    def constant(self, array: np.ndarray, role: str = "constant") -> str:
        """Returns the name of a stored constant; equal ones are stored once."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._unique("/".join(part for part in (self._scope, role) if part))
            self._initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def node(
        self,
        op: str,
        inputs: Sequence[Value | str | np.ndarray],
        dtype: Any,
        shape: Shape,
        order: Order | None = None,
        output: str | None = None,
        **attributes: Any,
    ) -> Value:
        """Adds a node of one output and returns that.

        Args:
            op: the ONNX operator.
            inputs: values, names of values (empty: left out), or arrays to store as constants.
            dtype: of the result.
            shape: of the result, as the program has it.
            order: of the result; the program's own if None.
            output: name of the result, if it has to have a certain one.
            attributes: of the operator.
        """
        name = self._unique("/".join(part for part in (self._scope, op) if part))
        names = [
            item.name if isinstance(item, Value) else item if isinstance(item, str) else self.constant(item)
            for item in inputs
        ]
        value = Value(output or name, np.dtype(dtype), shape, plain_order(len(shape)) if order is None else order)
        self.nodes.append(helper.make_node(op, names, [value.name], name=name, **attributes))
        if output is None:
            self._annotations.append(annotation(value))
        return value

    def once(self, op: str, inputs: Sequence[Value | np.ndarray], dtype: Any, shape: Shape, order: Order) -> Value:
        """Adds a node without attributes, or returns what an equal one made before."""
        names = (item.name if isinstance(item, Value) else self.constant(item) for item in inputs)
        key = (op, *names)
        if key not in self._made:
            self._made[key] = self.node(op, inputs, dtype, shape, order)
        return dataclasses.replace(self._made[key], shape=shape, order=order)

    def cast(self, x: Value, dtype: Any) -> Value:
        """Returns ``x`` in another integer or float type; nothing is added where it has that already."""
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        return self.node("Cast", [x], dtype, x.shape, x.order, to=helper.np_dtype_to_tensor_dtype(dtype))

    def in_order(self, x: Value, order: Order) -> Value:
        """Returns ``x`` with the axes of its tensor in that order."""
        if x.order == order:
            return x
        key = (x.name, tuple(x.order.index(axis) for axis in order))
        if key not in self._reordered:
            self._reordered[key] = self.node("Transpose", [x], x.dtype, x.shape, order, perm=list(key[1]))
        return dataclasses.replace(self._reordered[key], shape=x.shape, order=order)

    def plain(self, x: Value) -> Value:
        """Returns ``x`` with its axes as in the program."""
        return self.in_order(x, plain_order(len(x.shape)))

    def elementwise(self, op: str, xs: Sequence[Value | np.ndarray], dtype: Any, **attributes: Any) -> Value:
        """Adds an operator that works element by element, on values and constants that broadcast like NumPy's.

        Constants have the program's axes; the result is in the order of the value of the most axes.
        """
        shape = broadcast_shape([x.shape for x in xs])
        ndim = len(shape)
        values = [x for x in xs if isinstance(x, Value) and len(x.shape) == ndim]
        fullest = max(values, key=lambda x: sum(dim != 1 for dim in x.shape), default=None)
        order = plain_order(ndim) if fullest is None else fullest.order
        arguments: list[Value | np.ndarray] = []
        for x in xs:
            if isinstance(x, Value):
                arguments.append(self.in_order(self._with_rank(x, ndim), order))
            elif x.ndim == 0:
                arguments.append(x)
            else:
                arguments.append(x.reshape((1,) * (ndim - x.ndim) + x.shape).transpose(order))
        return self.node(op, arguments, dtype, shape, order, **attributes)

    def _with_rank(self, x: Value, ndim: int) -> Value:
        if len(x.shape) == ndim:
            return x
        shape = (1,) * (ndim - len(x.shape)) + x.shape
        return self.node("Reshape", [self.plain(x), self.sizes(shape)], x.dtype, shape)

    def sizes(self, stored_shape: Shape) -> str:
        """Returns a tensor of sizes for a reshape: one of them, a multiple of the batch, may be left open."""
        numbers = [-1 if isinstance(dim, Batch) else dim for dim in stored_shape]
        return self.constant(np.array(numbers, np.int64), "sizes")

    def batch_size(self, times: int) -> str:
        """Returns a tensor of one number, ``times`` times the batch size, read from an input."""
        if times not in self._batch_sizes:
            source, axis = next(
                (x, axis) for x in self.inputs for axis, dim in enumerate(x.shape) if isinstance(dim, Batch)
            )
            dim = source.shape[axis]
            size = self.node("Shape", [source], np.int64, (1,), start=axis, end=axis + 1)
            if isinstance(dim, Batch) and dim.times != 1:
                size = self.node("Div", [size, np.array([dim.times], np.int64)], np.int64, (1,))
            if times != 1:
                size = self.node("Mul", [size, np.array([times], np.int64)], np.int64, (1,))
            self._batch_sizes[times] = size.name
        return self._batch_sizes[times]

    def model(self, name: str, output: Value, metadata: dict[str, str]) -> onnx.ModelProto:
        """Returns the finished model, checked."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [annotation(x) for x in self.inputs],
            [annotation(output)],
            self._initializers,
            value_info=self._annotations,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="lglsq_jax",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def annotation(x: Value) -> onnx.ValueInfoProto:
    """Returns a value's name, type and shape as ONNX notes them."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    assert kind != TensorProto.UNDEFINED
    return helper.make_tensor_value_info(x.name, kind, [dimension_name(dim) for dim in x.stored_shape])
