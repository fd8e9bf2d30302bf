"""Twenty steps of a small network on given meshes of simulated devices; a program of its own, since JAX fixes them.

    python on_devices.py OUT MESHES METHODS [COORDINATOR PROCESSES PROCESS]

MESHES such as ``1x1,2x1,2x2`` (data by fsdp). Writes losses and parameters as ``OUT.npz``, from the first process.
"""

import os
import sys

from tests.short_run import simulated_devices


def main(out: str, meshes: str, methods: str, coordinator: str = "", processes: str = "1", process: str = "0") -> None:
    devices = 4 // int(processes) if coordinator else 8
    os.environ["XLA_FLAGS"] = simulated_devices(devices)
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import numpy as np

    if coordinator:
        jax.distributed.initialize(coordinator, int(processes), int(process))
    from lglsq_jax.training import hosts
    from tests.training.small_step import mesh_of, train

    found = {}
    for name in meshes.split(","):
        mesh = mesh_of(*map(int, name.split("x")))
        for method in methods.split(","):
            found |= {f"{name} {method} {key}": value for key, value in train(method, mesh).items()}
    if hosts.first():
        np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
