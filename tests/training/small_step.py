"""A small quantized network and the trainer's own step for it, on any mesh."""

import dataclasses

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh

import lglsq_jax as lq
from lglsq_jax.training.config import QuantizedConfig
from lglsq_jax.training.mesh import DATA, FSDP, gathered, place, split, spread, whole
from lglsq_jax.training.optimizer import make_optimizer, make_schedule
from lglsq_jax.training.oscillating import Tracking
from lglsq_jax.training.skeleton import Skeleton
from lglsq_jax.training.step import StepOptions, initial_state, make_train_step

STEPS, BATCH = 20, 16


class Network(nnx.Module):
    """A float stem, a quantized convolution with batch norm, and a quantized linear layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.conv = nnx.Conv(8, 16, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm = lq.BatchNorm(16, rngs=rngs)
        self.last = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(nnx.relu(self.stem(x)))))
        return self.last(x.mean((1, 2)))


def batches():
    """The same batches wherever they are made."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield {"image": rng.normal(size=(BATCH, 6, 6, 3)).astype(np.float32),
               "label": rng.integers(0, 4, BATCH).astype(np.int32)}  # fmt: skip


def quantized(method: str, bits: int = 4) -> nnx.Module:
    """The network with calibrated scales."""
    method = lq.methods.get(method)
    weights, inputs = lq.QuantSpec(bits, method=method), lq.QuantSpec(bits, False, batch_axis=0, method=method)
    model = lq.quantize_model(Network(nnx.Rngs(0)), [lq.Rule("conv|last", weights=weights, inputs=inputs)])
    lq.calibrate(model, [next(batches())["image"]])
    return model


def mesh_of(data: int, fsdp: int) -> Mesh:
    """A mesh of the first devices."""
    devices = np.asarray(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    return Mesh(devices, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def prepared(method: str, mesh: Mesh, settings: dict | None = None, bits: int = 4, **options):
    """The step, and the state before the first; ``settings`` are other fields of the phase."""
    fields = {"epochs": 1, "learning_rate": 0.02, "warmup_epochs": 0, "method": method, **(settings or {})}
    phase = QuantizedConfig(**fields)
    skeleton, parameters, rest = Skeleton.of(quantized(method, bits))
    optimizer = make_optimizer(phase, skeleton.scales, STEPS, STEPS)
    tracking = Tracking.of(skeleton, phase)
    state = initial_state(parameters, rest, optimizer, averaged=phase.ema_decay > 0, tracking=tracking)
    layout = dataclasses.replace(split(mesh, state), rest=jax.tree.map(lambda _: whole(mesh), state.rest))
    schedule = make_schedule(phase, phase.learning_rate, STEPS, STEPS)
    step = make_train_step(mesh, skeleton, optimizer, phase, schedule, STEPS, None, StepOptions(layout, **options))
    return step, spread(state, layout)


def train(method: str, mesh: Mesh, **options) -> dict[str, np.ndarray]:
    """Losses of all steps and the parameters after the last."""
    step, state = prepared(method, mesh, **options)
    losses, rows = [], BATCH // jax.process_count()
    own = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
    for batch in batches():
        state, metrics = step(state, place(mesh, {name: values[own] for name, values in batch.items()}))
        losses.append(float(metrics["loss"]))
    return {"losses": np.asarray(losses), **gathered(mesh, state.parameters)}
