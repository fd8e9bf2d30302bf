"""What configs/studies/search.py chose, tried once: other images to train on, and the test set to judge by; ten seeds.

    python -m lglsq_jax study configs/studies/confirm.py --processes 2

SSG with ASR of sharpness 3 and no MDE was the best of the eleven of the search. Here it meets LSQ, and LG-LSQ as it
was, on the second half of Fashion-MNIST's training images and on the test images, none of which the search has seen.
"""

import dataclasses

from search import study as search
from search import variant

from lglsq_jax.study import Block, Setting, Study

study = Study(
    name="confirm",
    base=dataclasses.replace(search.base, data=dataclasses.replace(search.base.data, train_part="1/2", held_out=0)),
    blocks=(
        Block(
            "The choice of the search, against LSQ",
            (Setting("resnet8-w2a2"),),
            (
                variant("lsq", "lsq"),
                variant("ssg-asr-3", "lg_lsq-mde", sharpness=3.0),
                variant("ssg-asr-2-mde-0.05", "lg_lsq", sharpness=2.0, strength=0.05),
            ),
            baseline="lsq",
        ),
    ),
    seeds=10,
)
