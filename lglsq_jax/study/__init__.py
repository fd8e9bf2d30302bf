"""Comparing methods over seeds: a plan of cells, each a run of its own, and the table that says what they carry.

``Study`` says what is compared with what (``plan.py``), ``run_cells`` trains what is missing (``cells.py``), and
``tables`` makes of the finished cells means, paired differences and what may be claimed (``comparison.py``).
"""

from .cells import Cells, known_results, run_cells
from .comparison import Row, Table, tables
from .plan import Block, Cell, Setting, Study, Variant

__all__ = [
    "Block",
    "Cell",
    "Cells",
    "Row",
    "Setting",
    "Study",
    "Table",
    "Variant",
    "known_results",
    "run_cells",
    "tables",
]
