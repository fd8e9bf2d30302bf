"""MobileNetV2, a quarter as wide, on Fashion-MNIST at W4A4: the depthwise network that suffers most from few bits.

The four files come with Debian's package dataset-fashion-mnist; --data.path names any other folder with them. The stem
has stride 2, so that the image ends as 1x1. At a learning rate of 0.05 the float network's loss jumps from 0.8 to 2.5.
All seeds and bits: python studies/mobile_networks.py.

    python train.py fashion_mobilenet_v2
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
    model=ModelConfig("mobilenet_v2", width=0.25, stem_stride=2, dropout=0.0),
    pretraining=PretrainingConfig(epochs=30, learning_rate=0.02, weight_decay=1e-4),
    quantized=QuantizedConfig(epochs=30, learning_rate=0.01, weight_decay=1e-4, weight_bits=4, input_bits=4),
)
