"""ResNet-20 on Fashion-MNIST at W3A3 (W2A2: --quantized.weight-bits 2 --quantized.input-bits 2).

The four files come with Debian's package dataset-fashion-mnist; --data.path names any other folder with them.

    python train.py fashion_mnist
"""

from lglsq_jax.data import DataConfig
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

config = TrainConfig(
    data=DataConfig(
        source="idx",
        path="/usr/share/datasets/fashion-mnist",
        batch_size=128,
        eval_batch_size=500,
        crop_padding=2,
        flip=True,
    ),
    model=ModelConfig("resnet20"),
    pretraining=PretrainingConfig(epochs=30, learning_rate=0.1),
    quantized=QuantizedConfig(epochs=30, learning_rate=0.02),
)
