"""A study's tables as Markdown, with what they carry said in words."""

import math
from collections.abc import Callable, Sequence

from .beside import Beside, Mean, measures
from .cells import Cells
from .comparison import CLAIMS, FEWEST_FOR_A_CLAIM, FEWEST_FOR_A_FIGURE, LEVEL, Row, Table
from .statistics import Interval

_BESIDE = (
    "setting",
    "variant",
    "seeds",
    "against float",
    "95 % t",
    "codes flipped, %",
    "against the baseline",
    "95 % t",
)
_HEAD = ("setting", "variant", "seeds", "top-1, %", "against the baseline", "95 % t", "95 % bootstrap", "p", "Holm", "")


def report(cells: Cells, tables: Sequence[Table]) -> str:
    """Returns every table with its title, and below it what may be read from it."""
    study = cells.study
    finished = len(cells.top1)
    lines = [f"# {study.name}: {finished} of {len(study.cells)} cells finished", ""]
    for table in tables:
        lines += [f"## {table.block.title}", "", *overview(table)]
        lines += [*(_table(table) if table.rows else ["Nothing is finished yet."]), ""]
        lines += _sentences(table) if table.rows else []
    comparisons = tables[0].comparisons if tables else 0
    lines += [
        "Top-1 of the fake-quantized network after its last epoch, mean ± standard error over seeds; differences are "
        "paired by seed, in points. p: two-sided paired t-test; Holm: corrected over "
        f"{comparisons} comparison{'s' if comparisons != 1 else ''}, all those of the study that have two pairs or "
        f"more. A claim needs {FEWEST_FOR_A_CLAIM} pairs and a corrected p below {LEVEL}.",
    ]
    if beside := measures(study, cells.results):
        lines += ["", "## Beside top-1", "", *beside_overview(beside), *_lined_up([_BESIDE, *map(_beside, beside)]), ""]
        lines += [
            "Against float: top-1 less that of the float network that the run started from, in points. Codes flipped: "
            "the share of weight codes that the last epoch changed, mean over the layers of less than 8 bits. "
            "Described, not tested."
        ]
        if any(mean.seeds < FEWEST_FOR_A_FIGURE for row in beside for mean in _means(row)):
            lines[-1] += f" Means of fewer than {FEWEST_FOR_A_FIGURE} seeds are no result."
    if diverged := cells.diverged:
        lines += ["", f"Their loss did not stay finite, which counts as a guess: {', '.join(diverged)}."]
    return "\n".join(lines) + "\n"


def overview(table: Table) -> list[str]:
    """Returns a line a setting and a column a variant; nothing for fewer than two settings."""
    settings = list(dict.fromkeys(row.setting for row in table.rows))
    if len(settings) < 2:
        return []
    rows = {(row.setting, row.variant): row for row in table.rows}
    base = table.block.baseline
    others = [each.name for each in table.block.variants if each.name != base]
    lines: list[tuple[str, ...]] = [("setting", "seeds", base, *others)]
    for setting in settings:
        found = [rows.get((setting, variant)) for variant in (base, *others)]
        counts = [found[0].seeds if found[0] else 0, *(row.pairs for row in found[1:] if row)]
        seeds = ", ".join(dict.fromkeys(str(count) for count in counts if count))  # of what the line shows
        first = f"{found[0].mean:.2f}{_error(found[0].error)}" if found[0] else ""
        lines.append((setting, seeds, first, *map(_difference, found[1:])))
    said = f"Top-1 of {base} in per cent, and the others less it in points. Bold: may be claimed."
    return [said, "", *_lined_up(lines), ""]


def beside_overview(rows: Sequence[Beside]) -> list[str]:
    """Returns the distances to float, and the flips, a line a setting; nothing for fewer than two settings."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    if len(settings) < 2:
        return []
    variants = list(dict.fromkeys(row.variant for row in rows))
    found = {(row.setting, row.variant): row for row in rows}

    def lined_up(text: Callable[[Beside], str]) -> list[str]:
        def line(setting: str) -> tuple[str, ...]:
            rows = (found.get((setting, variant)) for variant in variants)
            return setting, *(text(row) if row else "" for row in rows)

        return _lined_up([("setting", *variants), *map(line, settings)])

    return [
        "Top-1 less that of the float network, in points.",
        "",
        *lined_up(lambda row: _described(row.against_float)[0]),
        "",
        "Weight codes that the last epoch changed, in per cent.",
        "",
        *lined_up(_flipped),
        "",
    ]


def _difference(row: Row | None) -> str:
    if row is None or not row.pairs:
        return ""
    text = f"{row.difference:+.2f}{_error(row.difference_error)}"
    return f"**{text}**" if row.verdict in CLAIMS else text


def _table(table: Table) -> list[str]:
    return _lined_up([_HEAD, *(_cells(row) for row in table.rows)])


def _lined_up(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _cells(row: Row) -> tuple[str, ...]:
    top1 = f"{row.mean:.2f}{_error(row.error)}"
    if not row.pairs:
        return row.setting, row.variant, str(row.seeds), top1, "", "", "", "", "", ""
    return (
        row.setting,
        row.variant,
        _seeds(row),
        top1,
        f"{row.difference:+.2f}{_error(row.difference_error)}",
        _interval(row.interval),
        _interval(row.bootstrap),
        _p(row.p),
        _p(row.corrected),
        row.verdict,
    )


def _seeds(row: Row) -> str:
    """The seeds of the mean, and those of the difference where it has fewer."""
    if row.pairs == row.seeds:
        return str(row.seeds)
    return f"{row.seeds}, {row.pairs} pair{'s' if row.pairs != 1 else ''}"


def _beside(row: Beside) -> tuple[str, ...]:
    seeds = ", ".join(dict.fromkeys(str(mean.seeds) for mean in _means(row)))  # of each mean, where they differ
    against = _described(row.against_float), _described(row.flips_against)
    return row.setting, row.variant, seeds, *against[0], _flipped(row), *against[1]


def _flipped(row: Beside) -> str:
    return f"{row.flipped.mean:.2f}{_error(row.flipped.error)}" if row.flipped else ""


def _means(row: Beside) -> list[Mean]:
    return [mean for mean in (row.against_float, row.flipped, row.flips_against) if mean]


def _described(mean: Mean | None) -> tuple[str, str]:
    return (f"{mean.mean:+.2f}{_error(mean.error)}", _interval(mean.interval)) if mean else ("", "")


def _sentences(table: Table) -> list[str]:
    compared = [row for row in table.rows if row.pairs]
    few = [row for row in table.rows if row.seeds < FEWEST_FOR_A_FIGURE]
    claimed = [row for row in compared if row.verdict in CLAIMS]
    base, lines = table.block.baseline, []
    if few:
        lines.append(
            f"Fewer than {FEWEST_FOR_A_FIGURE} seeds are finished for {len(few)} of {len(table.rows)} rows: "
            "those figures are not a result."
        )
    lines += [
        f"{row.variant} is {row.verdict} than {base} in {row.setting}: {row.difference:+.2f} points, corrected p "
        f"{_p(row.corrected)}, {row.pairs} seeds."
        for row in claimed
    ]
    if unclaimed := len(compared) - len(claimed):
        lines.append(f"{unclaimed} of {len(compared)} comparisons with {base} show no difference that may be claimed.")
    return [*(f"* {line}" for line in lines), ""]


def _error(value: float) -> str:
    return "" if math.isnan(value) else f" ± {value:.2f}"


def _interval(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"{interval.low:+.2f} to {interval.high:+.2f}"


def _p(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
