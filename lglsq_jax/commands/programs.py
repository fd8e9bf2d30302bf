"""Commands on integer programs: write other formats, show what is in one, compare two."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from .command import Command, Result, options_of, positional, setting, switch

_WHERE = "Folder of a run, or the file of an integer program."


def is_program_file(path: str) -> bool:
    """Whether an argument names a file, and so a program, rather than a run's folder."""
    return Path(path).is_file()


def _opened(path: str) -> tuple[Any, Path]:
    """Returns the program that an argument names, a run's folder or a program's file, and the file.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from ..integer import load
    from ..training.deploy import load_program
    from ..training.folder import RunFolder

    if Path(path).is_dir():
        folder, _ = RunFolder.existing(path)
        return load_program(folder), folder.program_file
    if not Path(path).exists():
        raise UserError(f"a run's folder or a program's file must exist, got {path!r}, which does not")
    try:
        return load(path), Path(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _export(options: Any) -> Result:
    formats = _formats(options)
    if options.check and not options.onnx:
        raise UserError("`--check` is an option of `--onnx`, which must be given too")
    if options.check and is_program_file(options.run):
        raise UserError(f"`--check` needs the test images of a run, got {options.run!r}, which is a program's file")
    program, source = _opened(options.run)
    written = []
    for kind, write, place in list(_targets(options, formats, source)):  # every place is checked before the first
        with _as_sentence(place):
            write(program, place)
        written.append({"format": kind, "path": str(place), "bytes": place.stat().st_size})
    lines = [f"wrote {each['path']}, {each['bytes']:,} bytes" for each in written]
    fields, failed = {"program": str(source), "written": written}, ""
    if options.check:
        report = _checked(options.run, program, next(each["path"] for each in written if each["format"] == "onnx"))
        fields["onnx_check"] = dataclasses.asdict(report)
        lines, failed = [*lines, str(report)], report.failed
    return Result(fields, "\n".join(lines), failed)


def _checked(run: str, program: Any, file: str) -> Any:
    from ..data import open_dataset
    from ..training.folder import RunFolder
    from ..training.onnx_check import check_onnx

    _, config = RunFolder.existing(run)
    return check_onnx(file, program, open_dataset(config.data), config)


def _formats(options: Any) -> dict[str, Any]:
    if options.onnx_form is not None and not options.onnx:
        raise UserError("`--onnx-form` is an option of `--onnx`, which must be given too")
    form = options.onnx_form or "integer"
    if options.onnx_wide_sums and form != "qdq":
        raise UserError("`--onnx-wide-sums` is an option of `--onnx-form qdq`, which must be given too")
    every = {
        "onnx": (
            options.onnx,
            "onnx" if form == "integer" else "qdq.onnx",
            lambda p, path: p.to_onnx(path, form, wide_sums=options.onnx_wide_sums),
        ),
        "stablehlo": (options.stablehlo, "stablehlo", lambda p, path: p.to_stablehlo(path)),
        "c-header": (options.c_header, "h", lambda p, path: p.to_c_header(path)),
    }
    chosen = {name: (ending, write) for name, (wanted, ending, write) in every.items() if wanted}
    if not chosen:
        raise UserError("one or several of --onnx, --stablehlo and --c-header must be given, got none")
    return chosen


def _targets(options: Any, formats: dict[str, Any], source: Path) -> Iterator[tuple[str, Any, Path]]:
    """Yields each format, the function that writes it, and the file."""
    folder, only = source.parent, None
    if options.output == "":
        raise UserError("`--output` must be a file or a folder, got an empty text")
    if options.output is not None:
        output = Path(options.output)
        if options.output.endswith(("/", os.sep)) and not output.is_dir():
            raise UserError(f"the folder of `--output` must exist, got {options.output!r}, which does not")
        folder, only = (output, None) if output.is_dir() else (output.parent, output)
    if only is not None and len(formats) > 1:
        raise UserError(
            f"`--output` must be a folder that exists where several files are written, got {options.output!r}"
        )
    if not folder.is_dir():
        raise UserError(f"the folder of `--output` must exist, got {os.fspath(folder)!r}, which does not")
    stem = source.name.removesuffix(".safetensors")
    for name, (ending, write) in formats.items():
        place = only or folder / f"{stem}.{ending}"
        if place.exists() and place.samefile(source):
            raise UserError(f"`--output` must be another file than the program itself, got {options.output!r}")
        yield name, write, place


@contextlib.contextmanager
def _as_sentence(place: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except ValueError as error:  # what this format cannot hold
        raise UserError(f"cannot make {place}: {error}") from None


def inspect_program(path: str) -> Result:
    """Returns the layers of a program, how each sum becomes codes, and the totals."""
    from ..integer.comparison import describe_inputs
    from ..integer.dimensions import encode
    from ..integer.storage import file_version

    program, file = _opened(path)
    summary, layers = program.summary(), program.layers
    rows = []
    for row, layer in zip(summary.rows, layers, strict=True):
        ends = {"accumulator_low": layer.accumulator_low, "accumulator_high": layer.accumulator_high}
        rows.append({**dataclasses.asdict(row), **ends, "requantizer": str(layer.requantizer or "") or None})
    fields = {
        "program": str(file),
        "bytes": file.stat().st_size,
        "version": file_version(file),
        "inputs": describe_inputs(program),
        "input_shapes": [encode(shape) for shape in program.input_shapes],
        "input_dtypes": list(program.input_dtypes),
        "output_step": program.output_step,
        "instructions": len(program.instructions),
        "weight_bytes": summary.weight_bytes,
        "constant_bytes": summary.constant_bytes,
        "multiply_adds": summary.multiply_adds,
        "layers": rows,
    }
    lines = [
        f"{file}: {fields['bytes']:,} bytes, version {fields['version']}, {fields['instructions']} instructions",
        f"inputs: {fields['inputs']}; one unit of the logits is {program.output_step:.6g}",
        "",
        str(summary),
        "",
        *_sums(rows),
    ]
    return Result(fields, "\n".join(lines).rstrip())


def _sums(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields a table of what the sums of each layer can reach and how they become codes."""
    cells = [("layer", "smallest sum", "largest sum", "requantized by")]
    for row in rows:
        ends = f"{row['accumulator_low']:,}", f"{row['accumulator_high']:,}"
        cells.append((row["path"] or "(the model)", *ends, row["requantizer"] or "(no operation of its own)"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for path, low, high, how in cells if rows else []:
        yield f"{path.ljust(widths[0])}  {low.rjust(widths[1])}  {high.rjust(widths[2])}  {how}"


def _compare(options: Any) -> Result:
    from ..integer.comparison import compare

    first, second = (_opened(path) for path in (options.first, options.second))
    found = compare(first[0], second[0])
    fields = {"first": str(first[1]), "second": str(second[1]), "equal": found.equal, **dataclasses.asdict(found)}
    fields["layers"] = [{**dataclasses.asdict(layer), "equal": layer.equal} for layer in found.layers]
    return Result(fields, str(found), status=0 if found.equal else 1)


def _export_options() -> type:
    forms = "integer: codes in, int32 logits out, integer operators alone; qdq: floats in and out. integer if None."
    place = "File, or a folder that exists; None: beside the program."
    return options_of(
        "Export",
        [
            ("run", positional("RUN", _WHERE)),
            ("onnx", *switch("Write an ONNX model.")),
            ("onnx_form", *setting(Literal["integer", "qdq"], forms)),
            (
                "onnx_wide_sums",
                *switch(
                    "qdq: weights of 8 bits as int8, twice as fast, but right on ARM, GPUs and x86 with VNNI alone."
                ),
            ),
            (
                "check",
                *switch("Run the ONNX model in ONNX Runtime on all test images of the run; status 1 if it differs."),
            ),
            ("stablehlo", *switch("Write a jax.export artefact.")),
            ("c_header", *switch("Write a C99 header.")),
            ("output", *setting(str, place)),
        ],
    )


def _compare_options() -> type:
    return options_of("Compare", [("first", positional("A", _WHERE)), ("second", positional("B", _WHERE))])


PROGRAM_COMMANDS = (
    Command(
        "export", "write the program for other runtimes: --onnx, --stablehlo, --c-header", _export, _export_options
    ),
    Command(
        "compare", "which layers of two programs A and B differ, and in what; status 1", _compare, _compare_options
    ),
)
