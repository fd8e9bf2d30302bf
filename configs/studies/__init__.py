"""Studies, one file each: ``python -m lglsq_jax study configs/studies/NAME.py`` runs the ``study`` of the file."""
