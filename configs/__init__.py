"""Experiments, one file each: ``python train.py NAME`` runs the ``config`` of ``configs/NAME.py``."""
