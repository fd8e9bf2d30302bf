"""What the studies on Fashion-MNIST have in common: a ResNet-8 that trains in half a minute.

The four files come with Debian's package dataset-fashion-mnist. Sized for two CPU cores by the data, not by the seeds:
12,000 training images (drawn anew for each seed) and two quantized epochs from a float network of six.
"""

import dataclasses

from lglsq_jax.data import DataConfig
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

RATE = 0.02
SHORT_RESNET8 = TrainConfig(
    data=DataConfig(
        source="idx",
        path="/usr/share/datasets/fashion-mnist",
        batch_size=128,
        eval_batch_size=500,
        crop_padding=2,
        flip=True,
        train_images=12_000,
    ),
    model=ModelConfig("resnet8", stem_stride=2),
    pretraining=PretrainingConfig(epochs=6, learning_rate=0.1),
    quantized=QuantizedConfig(epochs=2, learning_rate=RATE, warmup_epochs=0.2),
    keep_checkpoints=1,
)
TO_CHOOSE_BY = dataclasses.replace(
    SHORT_RESNET8, data=dataclasses.replace(SHORT_RESNET8.data, train_part="0/2", held_out=10_000)
)
"""Trained on images of the first half of the training set, and judged by others of it."""
ON_OTHER_IMAGES = dataclasses.replace(
    SHORT_RESNET8, data=dataclasses.replace(SHORT_RESNET8.data, train_part="1/2", held_out=10_000)
)
"""Judged by training images that no choice was made by, and trained on the rest of their half."""


def bits(width: int) -> dict[str, int]:
    """The changes of a setting whose weights and inputs have so many bits."""
    return {"quantized.weight_bits": width, "quantized.input_bits": width}
