"""Prints the page faults of a call whose intermediate result has 64 MB, once memory has settled; says if it is kept."""

import json
import resource
import sys

from lglsq_jax.commands.allocator import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1:] == ["keep"] else False

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402


@jax.jit
def run(x):
    return (x * 2) @ jnp.ones((4096, 2))


def faults(calls: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        run(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


x = jnp.ones((4096, 4096))
faults(40)
print(json.dumps({"kept": kept, "faults": faults(10) / 10}))
