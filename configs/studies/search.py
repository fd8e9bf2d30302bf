"""Constants and schedules of SSG, ASR and MDE at W2A2: chosen here, on training images alone.

    python -m lglsq_jax study configs/studies/search.py

A short ResNet-8 on Fashion-MNIST. Images come from the first half of the training set: 12,000 to train on, drawn anew
for each seed, and 10,000 others to judge by in the place of the test images. What is chosen is then tried once, with
other images, by configs/studies/confirm.py. Five seeds: enough to choose by, not to claim anything.
"""

import dataclasses

from _short_resnet8 import TO_CHOOSE_BY

from lglsq_jax.study import Block, Setting, Study, Variant


def variant(name: str, method: str, **constants) -> Variant:
    return Variant(
        name, {"quantized.method": method, **{f"quantized.{key}": value for key, value in constants.items()}}
    )


study = Study(
    name="search",
    base=dataclasses.replace(
        TO_CHOOSE_BY, quantized=dataclasses.replace(TO_CHOOSE_BY.quantized, weight_bits=2, input_bits=2)
    ),
    blocks=(
        Block(
            "Constants and schedules, against LSQ",
            (Setting("resnet8-w2a2"),),
            (
                Variant("lsq"),
                variant("asr-2", "lsq+asr", sharpness=2.0),
                variant("asr-3", "lsq+asr", sharpness=3.0),
                variant("asr-4", "lsq+asr", sharpness=4.0),
                variant("asr-0-to-4", "lsq+asr", sharpness_start=0.0, sharpness=4.0),
                variant("asr-4-to-0", "lsq+asr", sharpness_start=4.0, sharpness=0.0),
                variant("mde-0.1", "lsq+mde", strength=0.1),
                variant("mde-0.2-decaying", "lsq+mde", strength=0.2, strength_schedule="decaying"),
                variant("asr-3-mde-0.1-decaying", "lsq+asr+mde", sharpness=3.0, strength=0.1,
                        strength_schedule="decaying"),
                variant("ssg-asr-3", "lg_lsq-mde", sharpness=3.0),
                Variant("lg_lsq"),
            ),
            baseline="lsq",
        ),
    ),
    seeds=5,
)  # fmt: skip
