"""Why a model has no integer program."""


class LoweringError(ValueError):
    """The model holds something that integers cannot do; the message names it, its module and its source line."""


class OpenBatchError(LoweringError):
    """A shape that an open batch does not leave, and a batch of a known size may."""
