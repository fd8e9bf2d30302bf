"""Running a function a single time: what compiling it costs counts, how fast it then is does not."""

from collections.abc import Callable
from typing import Any

# On a CPU, most of the time of a small program goes into fusions that are optimized for later calls.
_QUICK_ON_CPU = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}


def run_once(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns ``function(*arguments)``, compiled as one program without optimization where that is worth it.

    The values may differ in their last bits from those of the operations by themselves, as those of any ``jax.jit`` do.
    """
    import jax

    options = _QUICK_ON_CPU if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)(*arguments)
