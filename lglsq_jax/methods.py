"""Named gradient methods: the published ones, LG-LSQ as reconstructed here, and either with a part more or less."""

import dataclasses
from typing import Any

from . import gradients
from .method_names import NAMES, check_constants, check_method

STE = gradients.GradientMethod(scale_rule=gradients.FixedScale(), round_rule=gradients.STE())
"""Scales fixed by calibration, straight-through rounding (Bengio et al., 2013)."""

LSQ = gradients.GradientMethod(scale_rule=gradients.LSQScale(), round_rule=gradients.STE())
"""Learned step size (Esser et al., ICLR 2020)."""

LSQ_PLUS = gradients.GradientMethod(
    scale_rule=gradients.LSQScale(), round_rule=gradients.STE(), learn_offset=True, weight_start="sigma"
)
"""LSQ with a learned offset for inputs and weight scales that start at |mean| ± 3 sigma (Bhalgat et al., 2020)."""

LLSQ = gradients.GradientMethod(scale_rule=gradients.LLSQScale(), round_rule=gradients.STE())
"""Scales by comparison of s/2, s and 2s (Zhao et al., ICLR 2020)."""

EWGS = gradients.GradientMethod(
    scale_rule=gradients.LSQScale(), round_rule=gradients.STE(), error_rule=gradients.EWGS(strength=0.2)
)
"""LSQ with element-wise gradient scaling (Lee et al., CVPR 2021)."""

PACT = gradients.GradientMethod(
    scale_rule=gradients.PACTScale(step="clip"),
    round_rule=gradients.STE(),
    weight_transform=gradients.TanhNormalize(),
    weight_start="max",
    weight_scale_rule=gradients.FixedScale(),
)
"""Learned clip level for inputs, DoReFa's weights with their fixed scale (Choi et al., 2018)."""

DOREFA = gradients.GradientMethod(
    scale_rule=gradients.FixedScale(),
    round_rule=gradients.STE(),
    weight_transform=gradients.TanhNormalize(),
    weight_start="max",
)
"""Weights normalised by tanh into [-1, 1], scales fixed (Zhou et al., 2016)."""

LG_LSQ = gradients.GradientMethod(
    scale_rule=gradients.SSG(tau=0.1, eta=0.01),
    round_rule=gradients.ASR(sharpness=2.0),
    error_rule=gradients.MDE(strength=0.05),
)
"""SSG, ASR and MDE together (arXiv 2202.09009), reconstructed from its abstract."""

_BY_NAME = {name: globals()[name.upper()] for name in NAMES}


_PARTS = {"ssg": "scale_rule", "asr": "round_rule", "mde": "error_rule"}
_WITHOUT = {"ssg": LSQ.scale_rule, "asr": LSQ.round_rule, "mde": LSQ.error_rule}


def names() -> tuple[str, ...]:
    """Returns the names of the methods that :func:`get` composes others of."""
    return NAMES


def get(name: str) -> gradients.GradientMethod:
    """Returns the method of that name, such as ``"lg_lsq"``, with parts of LG-LSQ added or left out.

    After the name, ``+ssg``, ``+asr`` and ``+mde`` put LG-LSQ's scale, round and error rule in the place of the
    method's own; ``-ssg``, ``-asr`` and ``-mde`` put LSQ's there. So ``"lsq+asr+mde"`` is what the paper calls ASR and
    MDE on top of LSQ, and ``"lg_lsq-asr"`` is LG-LSQ without ASR.

    Raises:
        ValueError: the name is not known (the message lists those that are), a part is not one of the three, or it is
            there already, is not there to be left out, or would take the place of another error rule (EWGS).
    """
    base, changes = check_method(name)
    method = _BY_NAME[base]
    for sign, part in changes:
        rule = getattr(LG_LSQ, _PARTS[part]) if sign == "+" else _WITHOUT[part]
        method = dataclasses.replace(method, **{_PARTS[part]: rule})
    return method


def with_constants(
    name: str,
    *,
    sharpness: float | None = None,
    sharpness_start: float | None = None,
    strength: float | None = None,
    strength_schedule: str | None = None,
    strength_power: float | None = None,
    tau: float | None = None,
    eta: float | None = None,
    weight_start: str | None = None,
) -> gradients.GradientMethod:
    """Returns the method of that name, as :func:`get` does, with other constants in its rules; None: its own.

    Args:
        name: such as ``"lg_lsq"``.
        sharpness: of ASR.
        sharpness_start: ``start`` of ASR.
        strength: of MDE or EWGS.
        strength_schedule: ``schedule`` of MDE.
        strength_power: ``power`` of MDE.
        tau: of SSG.
        eta: of SSG.
        weight_start: how calibration starts weight scales, as in ``init_scale``.

    Raises:
        ValueError: the method has no such rule, its rule refuses the constant, or ``weight_start`` is not known.
    """
    check_constants(
        name,
        sharpness=sharpness,
        sharpness_start=sharpness_start,
        strength=strength,
        strength_schedule=strength_schedule,
        strength_power=strength_power,
        tau=tau,
        eta=eta,
    )
    method = get(name)
    changes: dict[str, Any] = {} if weight_start is None else {"weight_start": weight_start}
    for rule, constants in (
        ("round_rule", {"sharpness": sharpness, "start": sharpness_start}),
        ("error_rule", {"strength": strength, "schedule": strength_schedule, "power": strength_power}),
        ("scale_rule", {"tau": tau, "eta": eta}),
    ):
        constants = {field: value for field, value in constants.items() if value is not None}
        if constants:
            changes[rule] = dataclasses.replace(getattr(method, rule), **constants)
    return dataclasses.replace(method, **changes)
