"""Forms of SSG and MDE at W2A2, each a change of LG-LSQ: chosen here, on the digits and on half of Fashion-MNIST.

    python -m lglsq_jax study configs/studies/forms.py --processes 2

What configs/studies/search.py left: SSG's constants, MDE's other schedules, and the power of its error (0 acts alike
all over a rounding cell, 3 near its edges alone). Judged by the 360 test images of the embedded digits, with ResNet-8
as in quick.py, and by 10,000 training images of the first half of Fashion-MNIST, with DS-CNN. Six seeds: enough to
choose by, not to claim anything.

How is chosen, written before the first run: of the changed forms the one with the largest sum of its two mean
differences to LSQ, each divided by the root mean square of all forms' standard errors in that setting. It is tried once
beside LSQ and LG-LSQ, with ResNet-8 and with DS-CNN at W2A2, with seeds 600 to 615, trained on images of the second
half of the training set and judged by the test set.
"""

import dataclasses

from _short_resnet8 import SHORT_RESNET8, bits

from lglsq_jax.study import Block, Setting, Study, Variant


def form(name: str, **constants) -> Variant:
    """LG-LSQ with other constants."""
    return Variant(
        name, {"quantized.method": "lg_lsq", **{f"quantized.{key}": value for key, value in constants.items()}}
    )


study = Study(
    name="forms",
    base=dataclasses.replace(
        SHORT_RESNET8, data=dataclasses.replace(SHORT_RESNET8.data, train_part="0/2", held_out=10_000)
    ),
    blocks=(
        Block(
            "Forms of LG-LSQ, against LSQ",
            (
                Setting(
                    "digits-w2a2",
                    {
                        "data.source": "digits",
                        "data.path": None,
                        "data.batch_size": 64,
                        "data.eval_batch_size": 360,
                        "data.crop_padding": 1,
                        "data.flip": False,
                        "data.train_images": None,
                        "data.train_part": None,
                        "data.held_out": 0,
                        "pretraining.epochs": 8,
                        "quantized.epochs": 4,
                        "quantized.learning_rate": 0.04,
                        "quantized.warmup_epochs": 1.0,
                        "quantized.calibration_batches": 1,
                        **bits(2),
                    },
                ),
                Setting("ds_cnn-w2a2", {"model.name": "ds_cnn", "model.stem_stride": 4, **bits(2)}),
            ),
            (
                Variant("lsq"),
                Variant("lg_lsq"),
                form("tau-0.03", tau=0.03),
                form("tau-0.3", tau=0.3),
                form("eta-0", eta=0.0),
                form("eta-0.1", eta=0.1),
                form("mde-constant", strength_schedule="constant"),
                form("mde-cosine", strength_schedule="cosine"),
                form("mde-0.2-power-0", strength=0.2, strength_power=0.0),
                form("mde-0.2-power-3", strength=0.2, strength_power=3.0),
            ),
            baseline="lsq",
        ),
    ),
    seeds=6,
    first_seed=500,
)
