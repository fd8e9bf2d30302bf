"""MobileNetV2 and ShuffleNetV2 on Fashion-MNIST: top-1 in float and at 8, 4 and 3 bits, over seeds.

    python studies/mobile_networks.py [--network mobilenet_v2] [--seeds 3] [--float-epochs 3] [--epochs 1]
        [--runs runs/mobile] [--table]

For each seed one float network is trained and then quantized at each width, so rows are paired by seed. Every cell is
a run of its own in the folder ``--runs``; a killed study goes on where it was, and ``--table`` prints what is there.
The schedules are short ones for two CPU cores. A quantized network has been trained longer than the float network it
started from; W8A8 shows what those epochs alone bring.
"""

import argparse
import dataclasses
import importlib
import json
import sys
from pathlib import Path

import numpy as np

from lglsq_jax.training import TrainConfig, run_experiment

ROOT = Path(__file__).resolve().parent.parent
BITS = (8, 4, 3)


def cell(options: argparse.Namespace, seed: int, bits: int) -> Path:
    """Returns the folder of one run."""
    return Path(options.runs) / f"{options.network}-seed{seed}-w{bits}a{bits}"


def experiment(options: argparse.Namespace, seed: int, bits: int) -> TrainConfig:
    """Returns the config of one run; all but the first width take the float network of the first."""
    sys.path.insert(0, str(ROOT))  # experiments are files beside the package, not in it
    config = importlib.import_module(f"configs.fashion_{options.network}").config
    start = None if bits == BITS[0] else str(cell(options, seed, BITS[0]))
    pretraining = dataclasses.replace(config.pretraining, epochs=options.float_epochs, start_from=start)
    quantized = dataclasses.replace(
        config.quantized, epochs=options.epochs, warmup_epochs=0.2, weight_bits=bits, input_bits=bits
    )
    return dataclasses.replace(config, seed=seed, pretraining=pretraining, quantized=quantized)


def mean_and_error(values: np.ndarray) -> str:
    """Returns ``mean ± standard error``."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():6.2f} ± {error:4.2f}"


def table(options: argparse.Namespace) -> str:
    """Returns the results of the seeds for which all widths are finished."""
    found = []
    for seed in range(options.seeds):
        files = [cell(options, seed, bits) / "summary.json" for bits in BITS]
        if all(file.exists() for file in files):
            found.append([json.loads(file.read_text()) for file in files])
    if not found:
        return "no seed is finished yet"
    reference = np.array([100 * row[0]["float"]["top1"] for row in found])
    control = np.array([100 * row[0]["integer"]["top1"] for row in found])
    lines = [
        f"{options.network}, {len(found)} seeds, {options.float_epochs} + {options.epochs} epochs; mean ± std. error"
    ]
    lines.append(f"{'network':9} {'top-1, %':>14} {'minus float':>14} {'minus W8A8':>14} {'bytes':>9}  equal codes")
    lines.append(f"{'float':9} {mean_and_error(reference):>14} {'':14} {'':14} {found[0][0]['float']['bytes']:9,}")
    for index, bits in enumerate(BITS):
        rows = [row[index] for row in found]
        top1 = np.array([100 * row["integer"]["top1"] for row in rows])
        lines.append(
            f"{f'W{bits}A{bits}':9} {mean_and_error(top1):>14} {mean_and_error(top1 - reference):>14} "
            f"{mean_and_error(top1 - control) if index else '':>14} {rows[0]['integer']['bytes']:9,}  "
            f"{100 * min(row['own_equal_codes'] for row in rows):.4f} %"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("mobilenet_v2", "shufflenet_v2"), default="mobilenet_v2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--float-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--runs", default="runs/mobile")
    parser.add_argument("--table", action="store_true", help="print the results that are there and run nothing")
    options = parser.parse_args()
    if not options.table:
        for seed in range(options.seeds):
            for bits in BITS:
                run_experiment(experiment(options, seed, bits), cell(options, seed, bits))
    print(table(options))


if __name__ == "__main__":
    main()
