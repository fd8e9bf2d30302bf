"""The report of a run, from its folder to ``report/`` in it."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, write_json, write_whole, writing
from ..training.config import TrainConfig
from ..training.folder import RunFolder
from .distributions import Distribution
from .findings import MOST_SAMPLES, Findings, find
from .page import render

PAGE = "report.html"
PICTURES = "pictures.json"
"""The names of the pictures beside the page, so that the next report removes those that it does not write anew."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the HTML file, which holds everything.
        pictures: the same pictures as PNG files.
        findings: what they tell.
    """

    page: Path
    pictures: tuple[Path, ...]
    findings: Findings

    @property
    def fields(self) -> dict[str, Any]:
        """The key figures and the paths as plain values."""
        found, summary = self.findings, self.findings.summary or {}
        costs = {row.path: row for row in found.costs.rows} if found.costs else {}
        predictions = found.predictions
        return {
            "report": str(self.page),
            "pictures": [str(path) for path in self.pictures],
            "finished": found.summary is not None,
            "phase": found.phase,
            "step": found.step,
            "top1": {key: summary[key]["top1"] for key in ("float", "fake_quantized", "integer") if key in summary},
            "bytes": {key: summary[key]["bytes"] for key in ("float", "fake_quantized", "integer") if key in summary},
            "predictions": predictions
            and {
                "network": found.predictor,
                "samples": len(predictions.labels),
                "top1": predictions.top1,
                "mistakes": len(predictions.mistakes),
            },
            "sensitivity": found.sensitivity and dataclasses.asdict(found.sensitivity),
            "layers": [
                {
                    "path": layer.path,
                    "weights": _figures(layer.weights),
                    "inputs": _figures(layer.inputs),
                    "weight_bytes": costs[layer.path].weight_bytes if layer.path in costs else None,
                    "multiply_adds": costs[layer.path].multiply_adds if layer.path in costs else None,
                }
                for layer in found.distributions
            ],
        }

    def __str__(self) -> str:
        found = self.findings
        lines = [f"wrote {self.page}, {self.page.stat().st_size:,} bytes, and {len(self.pictures)} pictures beside it"]
        where = f"in its {found.phase or 'float'} phase, at step {found.step}"
        if found.summary is None:
            lines.append(f"the run is not finished: it is {where}")
        elif not found.phase:
            lines.append("the run is finished, but it has no checkpoint that can be read")
        elif found.phase != "quantized":
            lines.append(f"the run is finished, but its newest checkpoint that can be read is {where}")
        if found.sensitivity is not None and found.sensitivity.layers:
            worst = min(found.sensitivity.layers, key=lambda row: (row.alone.top1, -row.alone.loss))
            lines.append(
                f"most sensitive layer: {worst.path}, {100 * worst.alone.top1:.2f} % where only it is quantized, "
                f"{100 * found.sensitivity.unquantized.top1:.2f} % where none is "
                f"({found.sensitivity.samples:,} test images)"
            )
        return "\n".join(lines)


def write_report(folder: RunFolder, config: TrainConfig, samples: int = MOST_SAMPLES) -> Report:
    """Measures a run and writes ``report/report.html`` and its pictures into its folder, over those of an earlier time.

    Args:
        folder: of the run; it need not be finished.
        config: of the run.
        samples: at most so many test images for the sensitivity of the layers.

    Raises:
        UserError: the run has nothing to report yet, its data or its files cannot be read, or the report cannot be
            written.
    """
    place = folder.path / "report"
    with writing(f"the report to {place}"):  # before minutes of work
        place.mkdir(exist_ok=True)
        write_whole(place / ".writable", b"")
        (place / ".writable").unlink()
    findings = find(folder, config, samples)
    page, pictures = render(findings)
    with writing(f"the report to {place}"):
        for name, data in pictures.items():
            write_whole(place / name, data)
        write_whole(place / PAGE, page.encode())
        for old in _written_before(place) - pictures.keys():
            (place / old).unlink(missing_ok=True)
        write_json(place / PICTURES, sorted(pictures))
    return Report(place / PAGE, tuple(place / name for name in pictures), findings)


def _written_before(place: Path) -> set[str]:
    """Returns the names of the pictures of an earlier report; another's files beside them are nobody's to remove."""
    try:
        names = read_json(place / PICTURES)
    except UserError:  # there is none, or it is damaged
        return set()
    named = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return {name for name in named if Path(name).name == name and name.endswith(".png")}


def _figures(part: Distribution | None) -> dict[str, Any] | None:
    if part is None:
        return None
    return {
        "bits": part.spec.bits,
        "scale": list(part.scale),
        "clipped": part.clipped,
        "codes_used": part.codes_used,
        "signal_to_noise_db": part.signal_to_noise if math.isfinite(part.signal_to_noise) else None,
    }
