"""What each layer's quantizers cost by themselves: accuracy with one layer quantized, and with one layer left out."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped

from .batches import Inputs, arguments, check_batches, kind
from .inspection import check_scales
from .paths import quantized_layers


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a network does on labelled samples.

    Attributes:
        top1: the fraction of samples whose largest logit is that of their label.
        loss: mean cross entropy, in nats.
    """

    top1: float
    loss: float


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """One quantized layer.

    Attributes:
        path: of the layer.
        alone: with only this layer quantized, and all others in float.
        left_out: with only this layer in float, and all others quantized.
    """

    path: str
    alone: Score
    left_out: Score


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Every quantized layer of a model; prints as a table.

    Attributes:
        samples: how many samples were used.
        unquantized: with every quantizer off; the weights are those of the model all the same.
        quantized: with every quantizer on.
        layers: in the order in which the model holds them.
    """

    samples: int
    unquantized: Score
    quantized: Score
    layers: tuple[LayerSensitivity, ...]

    def standard_error(self, top1: float) -> float:
        r"""Returns the standard error of a top-1 of these samples, :math:`\sqrt{p (1 - p) / n}`, a fraction."""
        return math.sqrt(top1 * (1 - top1) / self.samples)

    def __str__(self) -> str:
        cells = [("layer", "only this one quantized", "only this one in float")]
        cells += [(row.path or "(the model)", _percent(row.alone), _percent(row.left_out)) for row in self.layers]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]
        lines.append(
            f"top-1 of {self.samples:,} samples; no layer quantized: {_percent(self.unquantized)}, "
            f"every layer: {_percent(self.quantized)}"
        )
        return "\n".join(lines)


def sensitivity(model: nnx.Module, batches: Iterable[tuple[Inputs, Int[ArrayLike, "n"]]]) -> Sensitivity:
    """Returns top-1 and loss of ``model`` with one layer quantized, and with one left in float, for each layer.

    The weights stay those of ``model``; only the rounding and clipping of weights and inputs is switched on and off,
    layer by layer. The network is compiled once (a layer's switch is a traced number) and run ``2 L + 2`` times a
    batch, for ``L`` quantized layers.

    Args:
        model: with quantized layers, calibrated or trained. It is run in evaluation mode and not changed.
        batches: pairs of what the model takes and the labels [n], which count from 0. All but the last of one size.
            What it takes is an array, or a tuple of the positional arguments of a call, ``[n, ...]`` each, where it
            takes several: ``((image, depth), labels)``.

    Raises:
        ValueError: there is no quantized layer or no sample, a scale is not set, labels do not fit the images, the
            model does not take as many arrays, or a layer's quantizers cannot be switched because the model does not
            run it, or hides it in a transformation of its own.
        TypeError: ``batches`` are one array, or a batch is not such a pair.
    """
    layers = [path for path, _ in quantized_layers(model)]
    if not layers:
        raise ValueError("`model` has no quantized layer: call quantize_model(model, rules) first")
    check_scales(model)
    score = jax.jit(_Scoring(model))
    one = np.eye(len(layers), dtype=bool)
    settings = np.concatenate([np.zeros_like(one[:1]), np.ones_like(one[:1]), one, ~one])
    state = nnx.state(model)
    sums, samples = np.zeros((len(settings), 2)), 0
    graph, classes = nnx.graphdef(model), None
    for index, (inputs, labels) in enumerate(_padded(model, batches)):
        if classes is None:
            shape = jax.eval_shape(functools.partial(switched_logits, graph), state, settings[0], *inputs).shape
            classes = shape[-1]
        if (labels >= classes).any():
            raise ValueError(
                f"the labels of batch {index} must be below {classes}, the number of the model's logits, and count "
                f"from 0, got {labels.max()}"
            )
        samples += int((labels >= 0).sum())
        sums += np.stack([np.asarray(score(state, setting, inputs, labels), np.float64) for setting in settings])
    if not samples:
        raise ValueError("`batches` must hold at least one sample, got none")
    scores = [Score(float(correct) / samples, float(loss) / samples) for correct, loss in sums]
    pairs = zip(layers, scores[2 : 2 + len(layers)], scores[2 + len(layers) :], strict=True)
    return Sensitivity(samples, scores[0], scores[1], tuple(LayerSensitivity(*each) for each in pairs))


def switched_logits(
    graph: nnx.GraphDef, state: nnx.State, setting: Bool[Array, "layers"], *inputs: Shaped[Array, "..."]
) -> Float[Array, "n classes"]:
    """Returns the float32 logits of a model in evaluation mode, each quantized layer on or off; to be compiled.

    Args:
        graph: of the model.
        state: of the model.
        setting: for each layer of ``quantized_layers``, whether its quantizers are on; traced.
        *inputs: what the model takes.

    Raises:
        ValueError: a layer's quantizers cannot be switched (named).
    """
    model = nnx.merge(graph, state)
    model.eval()
    used = set()
    for index, (path, layer) in enumerate(quantized_layers(model)):

        def switch(index=index, path=path):
            used.add(path)
            return setting[index]

        object.__setattr__(layer, "switch", switch)  # past nnx: not a part of the module's state
    logits = model(*inputs).astype(jnp.float32)
    missing = [path for path, _ in quantized_layers(model) if path not in used]
    if missing:
        raise ValueError(
            f"the quantizers of layer {missing[0]!r} cannot be switched: the model does not run it, or hides it "
            "in a transformation of its own"
        )
    return logits


class _Scoring:
    """A pure function of a model's state: how many samples are right, and the sum of their losses."""

    def __init__(self, model: nnx.Module):
        self._graph = nnx.graphdef(model)

    def __call__(self, state, setting, inputs, labels):
        logits = switched_logits(self._graph, state, setting, *inputs)
        real = labels >= 0
        log_probability = jax.nn.log_softmax(logits)
        losses = -jnp.take_along_axis(log_probability, jnp.maximum(labels, 0)[:, None], axis=-1)[:, 0]
        correct = (logits.argmax(-1) == labels) & real
        return jnp.stack([correct.sum().astype(jnp.float32), jnp.where(real, losses, 0).sum()])


def _padded(model: nnx.Module, batches) -> Iterator[tuple[tuple[Array, ...], np.ndarray]]:
    """Yields the batches, shorter ones filled up to the size of the first with the label -1."""
    check_batches(batches)
    size = 0
    for index, batch in enumerate(batches):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(
                f"batch {index} must be a pair of what the model takes and the labels, such as (images, labels), got "
                f"{kind(batch)}"
            )
        inputs, labels = arguments(model, batch[0], f"the first of batch {index}"), np.asarray(batch[1])
        other = next((array for array in inputs if array.shape[:1] != labels.shape), None)
        if other is not None or not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
            raise ValueError(
                f"batch {index} must have one label a sample, whole numbers from 0 on, got {labels.dtype} of shape "
                f"{labels.shape} for samples of shape {(inputs[0] if other is None else other).shape}"
            )
        size = size or len(labels)
        short = max(size - len(labels), 0)
        if short:
            inputs = tuple(jnp.pad(array, [(0, short)] + [(0, 0)] * (array.ndim - 1)) for array in inputs)
        yield inputs, np.pad(labels.astype(np.int32), (0, short), constant_values=-1)  # uint8 has no -1


def _percent(score: Score) -> str:
    return f"{100 * score.top1:.2f} %"
