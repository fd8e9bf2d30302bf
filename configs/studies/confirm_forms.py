"""What configs/studies/forms.py chose, tried once: other images to train on, the test set to judge by, sixteen seeds.

    python -m lglsq_jax study configs/studies/confirm_forms.py --processes 2

MDE at the same strength all along, not growing with the training, was the form with the largest sum. Here it meets LSQ
and LG-LSQ as it is, with ResNet-8 and with DS-CNN, on images of the second half of Fashion-MNIST's training set and on
the test images. That the test set has judged studies before cannot favour this form: none of them had it.
"""

import dataclasses

from _short_resnet8 import TO_CHOOSE_BY, bits
from forms import form
from methods import NETWORKS

from lglsq_jax.study import Block, Setting, Study, Variant

study = Study(
    name="confirm_forms",
    base=dataclasses.replace(TO_CHOOSE_BY, data=dataclasses.replace(TO_CHOOSE_BY.data, train_part="1/2", held_out=0)),
    blocks=(
        Block(
            "The chosen form of MDE, against LSQ",
            (
                Setting("resnet8-w2a2", bits(2)),
                Setting("ds_cnn-w2a2", {**NETWORKS["ds_cnn"], **bits(2)}),
            ),
            (Variant("lsq"), Variant("lg_lsq"), form("mde-constant", strength_schedule="constant")),
            baseline="lsq",
        ),
    ),
    seeds=16,
    first_seed=600,
)
