"""The table at the end of a run: float, fake-quantized and integer network."""

from typing import Any


def results_table(summary: dict[str, Any]) -> str:
    """Returns the results of a run's ``summary.json`` as a table with the proof below it."""
    bits = f"W{summary['bits']['weights']:g}A{summary['bits']['inputs']:g}"
    rows = [
        ("network", "top-1", "bytes", "smaller by"),
        _row("float", summary["float"], summary),
        _row(f"fake-quantized {bits}", summary["fake_quantized"], summary),
        _row(f"integer {bits}", summary["integer"], summary),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{summary['model']} on {summary['dataset']}, {summary['samples']:,} test images, {summary['method']}"]
    for row in rows:
        lines.append("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
    lines.append(
        f"integer against fake-quantized: same class for {100 * summary['agreement']:.3f} % of samples "
        f"({summary['tied_samples']} with a rounding tie, {summary['unexplained']} unexplained)"
    )
    for text, kind in (("every layer, given the same inputs", "own_"), ("every layer, from the image on", "")):
        difference = summary["own_difference" if kind else "max_difference"]
        equal = 100 * summary[f"{kind}equal_codes"]
        lines.append(f"{text}: at least {equal:.4f} % of the codes equal, largest difference {difference}")
    return "\n".join(lines)


def _row(name: str, result: dict[str, Any], summary: dict[str, Any]) -> tuple[str, str, str, str]:
    ratio = summary["float"]["bytes"] / result["bytes"]
    return name, f"{100 * result['top1']:.2f} %", f"{result['bytes']:,}", f"{ratio:.1f}x"
