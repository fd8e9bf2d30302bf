"""ShuffleNetV2 x0.5 on Fashion-MNIST at W4A4: depthwise convolutions, split and shuffled channels.

The four files come with Debian's package dataset-fashion-mnist; --data.path names any other folder with them. The stem
has stride 2 and no pooling. All seeds and bits: python studies/mobile_networks.py --network shufflenet_v2.

    python train.py fashion_shufflenet_v2
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
    model=ModelConfig("shufflenet_v2", width=0.5, stem_stride=2, stem_pool=False),
    pretraining=PretrainingConfig(epochs=30, learning_rate=0.1, weight_decay=1e-4),
    quantized=QuantizedConfig(epochs=30, learning_rate=0.02, weight_decay=1e-4, weight_bits=4, input_bits=4),
)
