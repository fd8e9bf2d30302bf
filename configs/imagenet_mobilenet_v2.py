"""MobileNetV2 on ImageNet at W4A4 (three or two bits: --quantized.weight-bits 3 --quantized.input-bits 3).

Reproduces: LG-LSQ (arXiv 2202.09009, abstract): less than 1 point lost at W4A4.
Published, top-1 in %: none of LG-LSQ beyond that sentence is known to us; float 71.878 (TorchVision V1).
This recipe has NOT been run to its end by this project; LG-LSQ's gradients are reconstructed from its abstract.
Expect, on 8 GPUs of about 150 TFLOP/s and 62 CPU cores (--data.workers 62): about 5 hours for 120 epochs,
limited by decoding (8,000 images/s; 16 workers, the default here, decode a quarter of that).
Estimated from 300 M multiply-adds an image at an eighth of the peak; not measured.

Once: prepare TFDS's imagenet2012 as array_record files, or have train/ and val/ with a folder a class, and put
TorchVision's weights (MobileNet_V2_Weights.IMAGENET1K_V1, 71.878 %) at /data. Then:

    python train.py imagenet_mobilenet_v2 --data.path /data/imagenet \
        --pretraining.weights /data/mobilenet_v2-b0353104.pth
    python train.py imagenet_mobilenet_v2 --dry-run     # the whole way on made-up images, in minutes on 2 cores
"""

from lglsq_jax.data import DataConfig
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

config = TrainConfig(
    data=DataConfig(source="imagenet", batch_size=256, eval_batch_size=200, flip=True, workers=16),
    model=ModelConfig("mobilenet_v2"),
    pretraining=PretrainingConfig(epochs=90, learning_rate=0.1, warmup_epochs=5, weight_decay=4e-5),
    quantized=QuantizedConfig(
        epochs=120,
        learning_rate=0.01,
        weight_decay=1e-5,
        weight_bits=4,
        input_bits=4,
        calibration_batches=8,
    ),
    checkpoint_every=1000,
)
