"""How long a command takes to begin: to the first training step, with and without compiled programs, and to --help.

    python benchmarks/startup.py [--model resnet20] [--phase float quantized] [--rounds 3]

Each start is a process of its own: ``train.py digits`` with that network and a checkpoint at every step, and the clock
stops when the line of the first step is in ``metrics.jsonl``. Cold: the run's folder is new. Warm: the run was ended
after its first checkpoint and goes on, with the compiled programs it has kept in its folder. ``quantized`` begins with
the float network of a file (``--pretraining.weights``), calibrates, and takes a step of W4A4. Medians of the rounds,
seconds; beside them the processor time of the process and its children, which other programs on the machine do not
lengthen as much.
"""

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HELP = {
    "train.py --help": ("train.py", "--help"),
    "train.py digits --help": ("train.py", "digits", "--help"),
    "python -m lglsq_jax --help": ("-m", "lglsq_jax", "--help"),
}
ENVIRONMENT = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}


def spent() -> float:
    """Processor seconds of the processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def trained(folder: Path, phase: str) -> int:
    """How many steps of a phase are written down."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return sum('"split": "train"' in line and f'"phase": "{phase}"' in line for line in lines)


def start(model: str, phase: str, folder: Path, weights: Path) -> tuple[float, float]:
    """Starts a run, waits for a step and for its checkpoint, and ends it; returns seconds and processor seconds."""
    command = [sys.executable, "train.py", "digits", "--model.name", model, "--checkpoint-every", "1",
               "--quantized.weight-bits", "4", "--quantized.input-bits", "4", "--run-dir", str(folder)]  # fmt: skip
    if phase == "quantized":
        command += ["--pretraining.weights", str(weights)]
    before, used, began = trained(folder, phase), spent(), time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while trained(folder, phase) == before:
        if process.poll() is not None:
            raise SystemExit(f"the run ended: {process.communicate()[1]}")
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    process.send_signal(signal.SIGTERM)
    process.communicate()
    return seconds, spent() - used


def write_weights(model: str, file: Path) -> None:
    """Writes random weights for ten classes of grey images, in a process of its own."""
    code = (
        "import sys, lglsq_jax as lq; from flax import nnx; "
        "net = getattr(lq.models, sys.argv[1])(num_classes=10, in_channels=1, rngs=nnx.Rngs(0)); "
        "lq.models.save_torchvision(net, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, model, str(file)], cwd=ROOT, check=True)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--phase", nargs="*", choices=("float", "quantized"), default=("float", "quantized"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for name, arguments in HELP.items():
            used, began = spent(), time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
            times.setdefault(name, []).append((time.perf_counter() - began, spent() - used))
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "weights.safetensors"
            if "quantized" in options.phase:
                write_weights(options.model, weights)
            for phase in options.phase:
                for state in ("cold", "warm"):
                    found = start(options.model, phase, Path(folder) / phase, weights)
                    times.setdefault(f"{options.model} {phase}, {state}", []).append(found)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{options.rounds} rounds, {os.cpu_count()} processors, load average {load}")
    print(f"{'start':32}{'median s':>10}{'min..max':>14}{'processor s':>13}")
    for name, found in times.items():
        seconds, processor = zip(*found, strict=True)
        extent = f"{min(seconds):.1f}..{max(seconds):.1f}"
        print(f"{name:32}{statistics.median(seconds):10.1f}{extent:>14}{statistics.median(processor):13.1f}")


if __name__ == "__main__":
    main()
