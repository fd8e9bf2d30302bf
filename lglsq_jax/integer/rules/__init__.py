"""One rule a primitive: how an equation of the model changes what lowering knows of its operands.

A rule takes the equation and its operands' values and returns its result's value, or a tuple for several results.
Supporting another primitive is one function here and one line in a table.
"""

from .arithmetic import ARITHMETIC
from .arranging import ARRANGING
from .indexing import INDEXING
from .products import PRODUCTS
from .quantizing import QUANTIZING
from .reductions import REDUCTIONS

RULES = {**ARITHMETIC, **ARRANGING, **INDEXING, **PRODUCTS, **QUANTIZING, **REDUCTIONS}
"""``{primitive name: rule(context, equation, *values)}``."""
