"""Gradient rules and how three of them make a method.

METHOD in ``docs/method.md`` gives every formula with its source. SSG, ASR and MDE are reconstructed from the abstract
of arXiv 2202.09009; someone who holds the paper's full text changes ``scale_rules.py``, ``round_rules.py`` and
``error_rules.py`` and nothing else.
"""

from .context import QuantizerContext
from .error_rules import EWGS, MDE, ErrorRule, NoErrorRule
from .method import GradientMethod, TanhNormalize
from .round_rules import ASR, STE, RoundRule, ScheduledRoundRule
from .scale_rules import SSG, FixedScale, LLSQScale, LSQScale, PACTScale, ScaleDirection, ScaleRule

__all__ = [
    "ASR",
    "EWGS",
    "MDE",
    "SSG",
    "STE",
    "ErrorRule",
    "FixedScale",
    "GradientMethod",
    "LLSQScale",
    "LSQScale",
    "NoErrorRule",
    "PACTScale",
    "QuantizerContext",
    "RoundRule",
    "ScaleDirection",
    "ScaleRule",
    "ScheduledRoundRule",
    "TanhNormalize",
]
