"""A training step on a CPU with glibc's allocator as it is, and told to keep freed memory; processes take turns.

    python benchmarks/allocator.py [--model ds_cnn] [--bits 2] [--batch 128] [--size 14] [--rounds 5] [--steps 40]

Each round starts one process of each kind, after two that fill a cache of compiled programs and are not counted. The
table has the median over the rounds of a process's median step, the processor time that its steps spent in the
kernel, page faults a step and the peak memory; the ratio is the median of kept / as it is within a round.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

KINDS = ("as it is", "kept")
FIGURES = ("step ms", "kernel ms", "faults", "peak MB")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Trains for some steps in this process."""
    from lglsq_jax.commands.allocator import keep_freed_memory

    if options.child == "kept" and not keep_freed_memory():
        raise SystemExit("nothing is kept here: this benchmark is about glibc, without MALLOC_... in the environment")
    import jax
    import jax.numpy as jnp
    from training_step import build, compile_step

    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(options.batch, options.size, options.size, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, options.batch))
    step, state = compile_step(build("quantized", options, images), images, labels)
    seconds = []
    for number in range(10 + options.steps):
        if number == 10:
            before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.perf_counter()
        *state, loss = step(*state, images, labels, jnp.float32(0.5))
        jax.block_until_ready(loss)
        seconds.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_SELF)
    figures = (
        1e3 * np.median(seconds[10:]),
        1e3 * (after.ru_stime - before.ru_stime) / options.steps,
        (after.ru_minflt - before.ru_minflt) / options.steps,
        after.ru_maxrss / 1024,
    )
    return dict(zip(FIGURES, map(float, figures), strict=True))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ds_cnn")
    parser.add_argument("--method", default="lg_lsq")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    seen: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for number in range(options.rounds + 1):
            for kind in KINDS if number % 2 else reversed(KINDS):
                command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
                said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
                if number:
                    seen[kind].append(json.loads(said))
    print(
        f"{options.model} W{options.bits}A{options.bits} {options.method}, batch {options.batch}, "
        f"{options.size}x{options.size}, {os.cpu_count()} CPUs, "
        f"{' '.join(platform.libc_ver())}, {options.rounds} rounds"
    )
    print(f"{'':12}{''.join(f'{kind:>12}' for kind in KINDS)}{'ratio':>8}{'min..max':>14}")
    for figure in FIGURES:
        plain, kept = (np.asarray([row[figure] for row in seen[kind]]) for kind in KINDS)
        line = f"{figure:12}{np.median(plain):12.1f}{np.median(kept):12.1f}"
        if figure in ("step ms", "peak MB"):
            ratios = kept / plain
            line += f"{np.median(ratios):8.2f}{f'{ratios.min():.2f}..{ratios.max():.2f}':>14}"
        print(line)


if __name__ == "__main__":
    main()
