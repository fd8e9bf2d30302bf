"""Time of a training step with oscillations tracked, frozen and damped, and of a batch for batch norm's statistics.

    python benchmarks/practice.py [--model resnet8] [--bits 2] [--batch 128] [--size 32] [--rounds 15]

All take turns, so the machine's drift meets all of them; the table gives each one's median time, its median ratio to
the plain step of the same round, and the bytes of its state a weight.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.training.config import MeshConfig, QuantizedConfig
from lglsq_jax.training.mesh import make_mesh, place, spread, whole
from lglsq_jax.training.optimizer import make_optimizer, make_schedule
from lglsq_jax.training.oscillating import Tracking
from lglsq_jax.training.reestimation import with_new_statistics
from lglsq_jax.training.skeleton import Skeleton
from lglsq_jax.training.step import StepOptions, TrainState, initial_state, make_train_step

STEPS = 1000
KINDS = {
    "plain": {},
    "tracked": {"track_oscillations": True},
    "frozen": {"freeze_threshold": 0.01},
    "damped": {"dampening": 1e-3},
    "frozen, damped": {"freeze_threshold": 0.01, "dampening": 1e-3},
}


def make_step(parts, mesh, changes) -> tuple[Callable, TrainState]:
    """Returns the trainer's step with some fields of its phase changed, and the state before the first."""
    skeleton, parameters, rest = parts
    phase = QuantizedConfig(**changes)
    optimizer = make_optimizer(phase, skeleton.scales, STEPS, 100)
    tracking = Tracking.of(skeleton, phase)
    state = initial_state(parameters, rest, optimizer, averaged=False, tracking=tracking)
    layout = jax.tree.map(lambda _: whole(mesh), state)
    schedule = make_schedule(phase, phase.learning_rate, STEPS, 100)
    step = make_train_step(mesh, skeleton, optimizer, phase, schedule, STEPS, options=StepOptions(layout))
    return step, spread(state, layout)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    mesh, rng = make_mesh(MeshConfig(), {"batch": options.batch}), np.random.default_rng(0)
    images = rng.normal(size=(options.batch, options.size, options.size, 3)).astype(np.float32)
    batch = place(mesh, {"image": images, "label": rng.integers(0, 10, options.batch).astype(np.int32)})
    model = getattr(lq.models, options.model)(num_classes=10, in_channels=3, rngs=nnx.Rngs(0))
    weights, inputs = lq.QuantSpec(options.bits), lq.QuantSpec(options.bits, signed=False, batch_axis=0)
    model = lq.quantize_model(model, lq.models.recommended_rules(model, weights=weights, inputs=inputs))
    lq.calibrate(model, [images[:16]])
    parts = Skeleton.of(model)
    steps = {name: make_step(parts, mesh, changes) for name, changes in KINDS.items()}
    states = {name: state for name, (_, state) in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in (*KINDS, "statistics")}

    def statistics(batches: int):
        layout = jax.tree.map(lambda _: whole(mesh), states["plain"])
        again = itertools.repeat(batch, batches)
        return with_new_statistics(parts[0], states["plain"], again, mesh, layout)

    for round_number in range(options.rounds + 2):
        for name, (step, _) in steps.items():
            start = time.perf_counter()
            states[name], metrics = step(states[name], batch)
            jax.block_until_ready((states[name], metrics))
            if round_number >= 2:
                times[name].append(time.perf_counter() - start)
    few, many = 1, 1 + options.rounds
    statistics(few)
    for batches in (few, many):  # both compile once: the difference is that of the batches
        start = time.perf_counter()
        statistics(batches)
        times["statistics"].append(time.perf_counter() - start)
    each = (times["statistics"][1] - times["statistics"][0]) / options.rounds
    print(
        f"{options.model} W{options.bits}A{options.bits}, batch {options.batch}, {options.size}x{options.size}, "
        f"{jax.devices()[0].device_kind}, {options.rounds} rounds"
    )
    print(f"{'':24}{'median ms':>10}{'x plain':>9}{'bytes/weight':>14}")
    weights_of = {path for path in parts[1] if path.endswith("kernel")}
    count = sum(parts[1][path].size for path in weights_of)
    for name in KINDS:
        extra = sum(array.nbytes for array in jax.tree.leaves(states[name].oscillations))
        ratio = np.median(np.asarray(times[name]) / np.asarray(times["plain"]))
        print(f"{name:24}{1e3 * np.median(times[name]):10.1f}{ratio:9.2f}{extra / count:14.1f}")
    print(f"{'a batch of statistics':24}{1e3 * each:10.1f}{each / np.median(times['plain']):9.2f}")


if __name__ == "__main__":
    main()
