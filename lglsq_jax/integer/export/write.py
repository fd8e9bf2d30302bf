"""Writing an exported file, with a mistake in its name told in one sentence."""

import os

from ...files import write_whole, writing


def write_export(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        UserError: it cannot be written; an earlier file of that name is left as it was.
    """
    with writing(os.fspath(path)):
        write_whole(path, data)
