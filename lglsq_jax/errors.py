"""The one error class that the command line turns into a sentence and exit status 2."""


class UserError(ValueError):
    """Something the person who called can put right; its message is one readable sentence."""
