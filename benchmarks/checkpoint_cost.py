"""What a checkpoint costs the training loop: steps with a save among them against steps without, in one run.

    python benchmarks/checkpoint_cost.py [--model resnet18] [--steps 8] [--rounds 9] [--folder DIR]

A small network trains, and a state of the size of ``--model`` (parameters, batch-norm statistics and one momentum, all
donated to the next step and changed by it) is saved with ``Checkpoints``. A round is ``--steps`` steps without a save,
the same with one save that is written beside them, and the same with one that the loop waits for; a round lasts longer
than a write. The medians of the rounds are printed: the time that ``save`` itself takes, and how much longer the steps
take (with the quartiles), each as a share of a minute. On a CPU the writing thread takes cores from the training; on an
accelerator it does not.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lglsq_jax as lq
from lglsq_jax.training import Checkpoints


def state_of(model: str) -> dict[str, jax.Array]:
    """Returns arrays of the size of a network's parameters, statistics and momentum, of random values."""
    network = getattr(lq.models, model)(num_classes=1000, in_channels=3, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    shapes = [leaf.shape for leaf in jax.tree.leaves(nnx.state(network))]
    shapes += [leaf.shape for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))]
    return {str(i): jnp.asarray(rng.normal(size=shape), jnp.float32) for i, shape in enumerate(shapes)}


def make_step():
    """Returns the jitted ``(small network, large state, images) -> (small network, large state)``, both donated."""
    graph, start, rest = nnx.split(lq.models.resnet8(num_classes=10, in_channels=3, rngs=nnx.Rngs(0)), nnx.Param, ...)

    def step(small, large, images):
        def loss_of(small):
            return jnp.square(nnx.merge(graph, small, rest, copy=True)(images)).mean()

        small = jax.tree.map(lambda p, g: p - 1e-4 * g, small, jax.grad(loss_of)(small))
        return small, jax.tree.map(lambda x: x * 0.9999, large)

    return jax.jit(step, donate_argnums=(0, 1)), start


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where to save; a temporary folder if not given")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    checkpoints = Checkpoints(folder / "checkpoints")
    step, small = make_step()
    large = state_of(options.model)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(options.batch, 32, 32, 3)), jnp.float32)
    size = sum(leaf.nbytes for leaf in large.values())
    names = ("no save", "beside", "waited for")
    loops: dict[str, list[float]] = {name: [] for name in names}
    calls: dict[str, list[float]] = {name: [] for name in names}
    writes, saved = [], 0
    for round_number in range(options.rounds + 1):  # the first one compiles and does not count
        for name in names if round_number % 2 else reversed(names):
            small, large = jax.block_until_ready(step(small, large, images))
            began = time.perf_counter()
            for index in range(options.steps):
                small, large = jax.block_until_ready(step(small, large, images))
                if name != "no save" and index == 0:
                    saved, called = saved + 1, time.perf_counter()
                    checkpoints.save(saved, large, {"step": saved})
                    if name == "waited for":
                        checkpoints.wait()
                    if round_number:
                        calls[name].append(time.perf_counter() - called)
            spent = time.perf_counter() - began
            checkpoints.wait()
            if round_number:
                loops[name].append(spent)
                if name == "beside":
                    writes.append(time.perf_counter() - began - spent)
    checkpoints.close()
    shutil.rmtree(folder)
    device = jax.devices()[0]
    print(
        f"state of {options.model}: {size / 2**20:.0f} MB in {len(large)} arrays; {options.rounds} rounds of "
        f"{options.steps} steps of {1e3 * np.median(loops['no save']) / options.steps:.0f} ms; "
        f"{device.platform} ({device.device_kind})"
    )
    if max(writes) > 0.05:
        print(f"writing took {max(writes):.2f} s longer than the steps: more --steps would show its whole cost")
    print(f"{'save':12}{'call s':>8}{'of a minute':>13}{'steps longer by s':>19}{'quartiles':>16}{'of a minute':>13}")
    for name in names[1:]:
        low, longer, high = np.quantile(np.asarray(loops[name]) - np.asarray(loops["no save"]), (0.25, 0.5, 0.75))
        call, quartiles = float(np.median(calls[name])), f"{low:.2f}..{high:.2f}"
        print(f"{name:12}{call:8.3f}{call / 60:13.2%}{longer:19.2f}{quartiles:>16}{longer / 60:13.2%}")


if __name__ == "__main__":
    main()
