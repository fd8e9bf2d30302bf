"""ResNet-8 on scikit-learn's embedded digits at W3A3: the whole way in half a minute on two CPU cores.

python train.py digits
"""

from lglsq_jax.data import DataConfig
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

config = TrainConfig(
    data=DataConfig(source="digits", batch_size=64, eval_batch_size=360, crop_padding=1),
    model=ModelConfig("resnet8"),
    pretraining=PretrainingConfig(epochs=20, learning_rate=0.1),
    quantized=QuantizedConfig(epochs=20, learning_rate=0.04),
)
