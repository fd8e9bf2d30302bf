"""The names of the gradient methods. Light to import: JAX is not needed to read a config."""

import difflib

NAMES = ("ste", "lsq", "lsq_plus", "llsq", "ewgs", "pact", "dorefa", "lg_lsq")


def check_method(name: str) -> None:
    """Checks that a method has this name.

    Raises:
        ValueError: it is not known; the message lists those that are.
    """
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}{hint}")
