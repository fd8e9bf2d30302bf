"""The command line: ``train.py`` and ``python -m lglsq_jax``."""
