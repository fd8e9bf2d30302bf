"""The names of the gradient methods. Light to import: JAX is not needed to read a config."""

import difflib
import re

NAMES = (
    "ste",
    "lsq",
    "lsq_plus",
    "llsq",
    "ewgs",
    "pact",
    "dorefa",
    "lg_lsq",
)
OF_A_FUNCTION = ("pact", "dorefa")
"""The methods with a ``weight_transform``: they round a function of the weights."""
PARTS = ("ssg", "asr", "mde")
"""The parts of LG-LSQ, which are its rules for the scale, the rounding and the rounding error."""
SCHEDULES = ("linear", "constant", "decaying", "cosine")
"""How MDE's strength goes with the training progress."""
STARTS = ("mse", "lsq", "max", "sigma")
"""Where a scale may start, see ``init_scale``."""


def check_method(name: str) -> tuple[str, list[tuple[str, str]]]:
    """Checks a method's name, such as ``lsq+asr+mde``, and returns its base and the parts added (+) or left out (-).

    Raises:
        ValueError: the base is not known (the message lists those that are), a part is not one of the three, is there
            already, is not there to be left out, or would take the place of another error rule (EWGS).
    """
    base, *changes = re.split(r"(?=[+-])", name) if isinstance(name, str) else (name,)
    if base not in NAMES:
        close = difflib.get_close_matches(str(base), NAMES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}{hint}")
    present = set(PARTS) if base == "lg_lsq" else set()
    for change in changes:
        sign, part = change[0], change[1:]
        if part not in PARTS:
            raise ValueError(
                f"`name` must add or leave out {', '.join(PARTS)}, such as lsq+asr+mde or lg_lsq-asr, got {name!r}"
            )
        if sign == "+" and part in present:
            raise ValueError(f"`name` must add a part that is not there yet, but +{part} in {name!r} is")
        if sign == "-" and part not in present:
            raise ValueError(f"`name` must leave out a part that is there, but {part} in {name!r} is not")
        if base == "ewgs" and part == "mde":
            raise ValueError(f"`name` must add mde to a method without an error rule, but {name!r} has EWGS's")
        present ^= {part}
    return base, [(change[0], change[1:]) for change in changes]


def check_constants(
    name: str,
    *,
    sharpness: float | None = None,
    sharpness_start: float | None = None,
    strength: float | None = None,
    strength_schedule: str | None = None,
    strength_power: float | None = None,
    tau: float | None = None,
    eta: float | None = None,
) -> None:
    """Checks that a method of that name has the rules whose constants are given; their values are the rules' to check.

    Raises:
        ValueError: it has not (named: the constant, the rule, the method), or ``name`` is none.
    """
    base, changes = check_method(name)
    present = (set(PARTS) if base == "lg_lsq" else {base}) | {part for sign, part in changes if sign == "+"}
    present -= {part for sign, part in changes if sign == "-"}
    for constant, value, rules, said in (
        ("sharpness", sharpness, {"asr"}, "ASR"),
        ("sharpness_start", sharpness_start, {"asr"}, "ASR"),
        ("strength", strength, {"mde", "ewgs"}, "MDE or EWGS"),
        ("strength_schedule", strength_schedule, {"mde"}, "MDE"),
        ("strength_power", strength_power, {"mde"}, "MDE"),
        ("tau", tau, {"ssg"}, "SSG"),
        ("eta", eta, {"ssg"}, "SSG"),
    ):
        if value is not None and not rules & present:
            raise ValueError(f"`{constant}` must be None for a method without {said}, such as {name}, got {value!r}")
