"""``python -m lglsq_jax``: on a run's folder, make its integers again, verify, evaluate, inspect and report them."""

import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UserError
from .command import Command, Result, options_of, positional
from .programs import PROGRAM_COMMANDS, inspect_program, is_program_file
from .reports import REPORT_COMMAND
from .sentences import answer, parse
from .study import STUDY_COMMAND

_USAGE = """usage: python -m lglsq_jax COMMAND RUN [--json]
       python -m lglsq_jax compare A B [--json]
       python -m lglsq_jax study FILE [--only PATTERN] [--processes N] [--list] [--table] [--json]

RUN is a run's folder, as train.py made it; export, inspect and compare take the file of an integer program too.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs ``python -m lglsq_jax`` and returns its exit status.

    0; 1 where verification failed or compared programs differ; 2 after a user's error.
    """
    return answer(lambda: _dispatch(list(arguments)))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        for command in COMMANDS.values():
            print(f"  {command.name.ljust(10)}{command.meaning}")
        if not arguments:
            raise UserError(f"COMMAND must be given first, one of {', '.join(COMMANDS)}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"COMMAND must be one of {', '.join(COMMANDS)}, got {name!r}{hint}")
    command = COMMANDS[name]
    given = parse(command.options(), rest, prog=f"python -m lglsq_jax {name}", description=command.meaning)
    result = command.run(given)
    print(json.dumps(result.fields, indent=2) if given.json else result.text)
    if result.failed:
        print(f"FAILED: {result.failed}", file=sys.stderr)
        return 1
    return result.status


def _options(meaning: str = "Folder of the run.") -> Callable[[], type]:
    return lambda: options_of("Options", [("run", positional("RUN", meaning))])


def _lower(options: Any) -> Result:
    from ..data import open_dataset
    from ..training.deploy import make_program
    from ..training.folder import RunFolder
    from ..training.saved import quantized_network

    folder, config = RunFolder.existing(options.run)
    dataset = open_dataset(config.data)
    program = make_program(folder, quantized_network(folder, config, dataset).model(), dataset)
    summary = program.summary()
    fields = {
        "program": str(folder.program_file),
        "bytes": folder.program_file.stat().st_size,
        "weight_bytes": summary.weight_bytes,
        "multiply_adds": summary.multiply_adds,
        "layers": [dataclasses.asdict(row) for row in summary.rows],
    }
    return Result(fields, f"{summary}\nsaved {fields['program']}, {fields['bytes']:,} bytes")


def _verify(options: Any) -> Result:
    from ..data import open_dataset
    from ..training.deploy import broken_promises, compare, load_program, report_fields
    from ..training.folder import RunFolder
    from ..training.saved import quantized_network

    folder, config = RunFolder.existing(options.run)
    program = load_program(folder)
    dataset = open_dataset(config.data)
    report = compare(quantized_network(folder, config, dataset).model(), program, dataset, config)
    return Result(report_fields(report), str(report), "; ".join(broken_promises(report)))


def _evaluate(options: Any) -> Result:
    from ..data import open_dataset
    from ..training.config import MeshConfig
    from ..training.deploy import integer_accuracy, load_program
    from ..training.evaluation import evaluate
    from ..training.folder import RunFolder
    from ..training.mesh import make_mesh
    from ..training.saved import float_network, quantized_network

    folder, config = RunFolder.existing(options.run)
    program = load_program(folder)
    dataset = open_dataset(config.data)
    mesh = make_mesh(MeshConfig(), {"eval_batch_size": config.data.eval_batch_size})
    top1 = {
        "float": evaluate(float_network(folder, config, dataset), dataset, config, mesh)["accuracy"],
        "fake_quantized": evaluate(quantized_network(folder, config, dataset), dataset, config, mesh)["accuracy"],
        "integer": integer_accuracy(program, dataset, config),
    }
    lines = [f"top-1 on the {len(dataset.test):,} test images of {dataset.name}"]
    lines += [f"{name.replace('_', '-'):16}{100 * value:6.2f} %" for name, value in top1.items()]
    return Result({"top1": top1, "samples": len(dataset.test)}, "\n".join(lines))


def _inspect(options: Any) -> Result:
    if is_program_file(options.run):
        return inspect_program(options.run)
    from ..training.chosen_bits import kept_bits
    from ..training.config import as_dict
    from ..training.folder import RunFolder
    from ..training.saved import newest_snapshot, quantization_plan

    folder, config = RunFolder.existing(options.run)
    snapshot = newest_snapshot(folder, config)
    fields = {
        "step": snapshot.step if snapshot else 0,
        "phase": snapshot.phase if snapshot else "float",
        "finished": folder.finished,
        "params_sha256": snapshot.params_sha256 if snapshot else None,
        "shapes_known": snapshot is not None,
        "config": as_dict(config),
    }
    unsettled = bool(config.quantized.bit_choices) and kept_bits(folder, config) is None
    plan = quantization_plan(folder, config, snapshot)
    state = "finished" if folder.finished else f"in its {fields['phase']} phase"
    lines = [
        f"{options.run}: {state}, step {fields['step']}",
        f"params_sha256 {fields['params_sha256']}",
        *(["the bits of the layers are not chosen yet; below are those of the config"] if unsettled else []),
        *([] if snapshot else ["no checkpoint: the shapes below are those for 3 input channels and 10 classes"]),
        "",
        str(plan),
    ]
    fields["layers"] = [
        {
            "path": row.path,
            "kind": row.kind,
            "kernel_shape": list(row.kernel_shape),
            "weight_bits": row.weights.bits if row.weights else None,
            "input_bits": row.inputs.bits if row.inputs else None,
        }
        for row in plan.rows
    ]
    return Result(fields, "\n".join(lines))


COMMANDS = {
    command.name: command
    for command in (
        Command("lower", "make the integer program from the newest checkpoint and show its layers", _lower, _options()),
        Command(
            "verify", "compare the integer program with the quantized network on all test images", _verify, _options()
        ),
        Command("evaluate", "top-1 of the float, the fake-quantized and the integer network", _evaluate, _options()),
        Command(
            "inspect",
            "of a run: step, hash of all parameters, config, plan; of a program: its layers and sums",
            _inspect,
            _options("Folder of the run, or the file of an integer program."),
        ),
        REPORT_COMMAND,
        *PROGRAM_COMMANDS,
        STUDY_COMMAND,
    )
}
