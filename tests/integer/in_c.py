"""Compiles the reference interpreter with programs in it, and runs them."""

import dataclasses
import functools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "c"
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1"]

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="compiles C, and there is no gcc on this machine")

MANY = """
#include <stdio.h>
#include <stdlib.h>
{includes}
#include "interpreter.h"

static const lglsq_program *const programs[] = {{{programs}}};

int main(void) {{ /* every program in turn, on two samples, in exactly as much memory as it says it needs */
    for (int number = 0; number < {count}; number++) {{
        const lglsq_program *program = programs[number];
        uint8_t *arena = malloc((size_t)program->arena_bytes);
        const int32_t logits = lglsq_count(&program->instructions[program->instruction_count - 1]);
        for (int sample = 0; sample < {samples}; sample++) {{
            for (int32_t index = 0; index < program->input_count; index++) {{
                const lglsq_instruction *input = &program->instructions[program->inputs[index]];
                const size_t bytes = (size_t)lglsq_count(input) * (size_t)lglsq_bytes(input->type);
                if (fread(arena + input->place, 1, bytes, stdin) != bytes) return 1;
            }}
            lglsq_run(program, arena);
            for (int32_t index = 0; index < logits; index++) {{
                const int32_t logit = lglsq_logit(program, arena, index);
                if (fwrite(&logit, 4, 1, stdout) != 1) return 1;
            }}
        }}
        free(arena);
    }}
    return getchar() == EOF ? 0 : 1;
}}
"""


@functools.cache
def sanitizers() -> list[str]:
    """The flags that make undefined behaviour and stray reads an error, where this gcc has them."""
    flags = ["-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
    test = ["gcc", *flags, "-x", "c", "-", "-o", "/dev/null"]
    works = subprocess.run(test, input=b"int main(void) { return 0; }", capture_output=True).returncode == 0
    return flags if works else []


def compile_c(source: Path, result: Path, *flags: str) -> None:
    """Compiles one file; a warning is an error."""
    command = [
        "gcc",
        *STRICT,
        *sanitizers(),
        *flags,
        f"-I{FOLDER}",
        f"-I{source.parent}",
        str(source),
        "-o",
        str(result),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


@dataclasses.dataclass(frozen=True)
class Case:
    """A program, the codes of some samples (for each, one array an input), and the logits that are right for each."""

    program: object
    samples: list[tuple[np.ndarray, ...]]
    expected: list[np.ndarray]


def run_all(cases: dict[str, Case], folder: Path) -> dict[str, list[np.ndarray]]:
    """Compiles all programs into one executable, and returns the logits of each sample of each."""
    names = {title: f"p{number}" for number, title in enumerate(cases)}
    for title, case in cases.items():
        case.program.to_c_header(folder / f"{names[title]}.h", names[title])
    (samples,) = {len(case.samples) for case in cases.values()}
    source = MANY.format(
        includes="\n".join(f'#include "{name}.h"' for name in names.values()),
        programs=", ".join(f"&{name}" for name in names.values()),
        count=len(cases),
        samples=samples,
    )
    (folder / "many.c").write_text(source)
    compile_c(folder / "many.c", folder / "many")
    given = b"".join(codes.tobytes() for case in cases.values() for sample in case.samples for codes in sample)
    run = subprocess.run([str(folder / "many")], input=given, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()[-3000:]
    logits, at, found = np.frombuffer(run.stdout, np.int32), 0, {}
    for title, case in cases.items():
        found[title] = []
        for expected in case.expected:
            found[title].append(logits[at : at + expected.size].reshape(expected.shape))
            at += expected.size
    assert at == logits.size
    return found
