"""One of two processes that keep compiled programs in a folder: prints how many it found there.

python cache_of_two.py FOLDER PORT NUMBER
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lglsq_jax.training.cache import compiled_once

folder, port, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, number)
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name) if name.endswith("/cache_hits") else None)
with compiled_once(folder):
    everywhere = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec("data"))
    x = jax.make_array_from_process_local_data(everywhere, jnp.full((1, 3), number + 1.0))
    assert float(jax.jit(lambda x: (x * jnp.cosh(x)).sum(), out_shardings=None)(x)) > 26
    assert jax.config.values["jax_compilation_cache_dir"] in (str(folder), None)
print(len(found))
