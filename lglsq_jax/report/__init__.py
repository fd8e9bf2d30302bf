"""Results as people read them."""

from .results import results_table

__all__ = ["results_table"]
