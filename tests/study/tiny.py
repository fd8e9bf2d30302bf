"""A study that takes seconds a cell, and cells that are said to be finished."""

import json
from pathlib import Path
from typing import Any

from lglsq_jax.data import DataConfig
from lglsq_jax.study import Block, Cells, Setting, Study, Variant
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

BASE = TrainConfig(
    data=DataConfig(batch_size=160, eval_batch_size=360, train_images=160),
    model=ModelConfig("resnet8", stem_stride=2),
    pretraining=PretrainingConfig(epochs=1),
    quantized=QuantizedConfig(epochs=2, calibration_batches=1),
)
W2A2 = Setting("w2a2", {"quantized.weight_bits": 2, "quantized.input_bits": 2})
METHODS = (Variant("lsq"), Variant("lsq+asr"))


def tiny_study(seeds: int = 2, settings: tuple[Setting, ...] = (W2A2,), **fields) -> Study:
    block = Block("Rounding", settings, METHODS, "lsq")
    return Study(**{"name": "tiny", "base": BASE, "blocks": (block,), "seeds": seeds, **fields})


FILE = """
from tests.study.tiny import tiny_study

study = tiny_study({seeds})
"""


def study_file(folder: Path, seeds: int) -> Path:
    file = folder / "tiny.py"
    file.write_text(FILE.format(seeds=seeds))
    return file


def finish(folder: Path, top1: float, seconds: float = 60.0, diverged: str = "", **more: Any) -> None:
    """Writes what a finished cell leaves behind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cell.json").write_text(json.dumps({"top1": top1, "seconds": seconds, "diverged": diverged, **more}))


def finish_all(cells: Cells, top1) -> None:
    """Finishes every cell with ``top1(cell)``."""
    for cell in cells.study.cells:
        finish(cells.run_folder(cell), top1(cell))
