"""Writing an exported file, with a mistake in its name told in one sentence."""

import os

from ...errors import UserError
from ...files import write_whole


def write_export(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        UserError: it cannot be written; an earlier file of that name is left as it was.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from None
