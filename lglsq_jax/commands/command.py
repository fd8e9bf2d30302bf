"""What a command is, and what it answers."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command found.

    Attributes:
        fields: for machines, with ``--json``.
        text: for people.
        failed: what went wrong although the command ran; empty where nothing did.
        status: the exit status where nothing failed.
    """

    fields: dict[str, Any]
    text: str
    failed: str = ""
    status: int = 0


@dataclasses.dataclass(frozen=True)
class Command:
    """A command's name, its line in ``--help``, the function behind it, and a function that makes its options.

    Attributes:
        name: as it is typed.
        meaning: one line.
        run: from the options, filled in, to the result.
        options: returns the dataclass of its options, which has a field ``json``.
    """

    name: str
    meaning: str
    run: Callable[[Any], Result]
    options: Callable[[], type]


def options_of(name: str, fields: list[tuple]) -> type:
    """Returns a dataclass of options: the given fields and ``--json``."""
    return dataclasses.make_dataclass(name, [*fields, ("json", *switch("Print JSON for machines instead of text."))])


def positional(metavar: str, meaning: str) -> Any:
    """Returns the type of a word that must be given."""
    import tyro

    return Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=meaning, metavar=metavar)]


def switch(meaning: str) -> tuple[Any, Any]:
    """Returns type and default of a flag that is off unless it is given."""
    import tyro

    kind = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=meaning)]
    return kind, dataclasses.field(default=False)


def setting(kind: Any, meaning: str) -> tuple[Any, Any]:
    """Returns type and default of a flag with a value, None unless it is given."""
    import tyro

    return Annotated[kind | None, tyro.conf.arg(help=meaning)], dataclasses.field(default=None)
