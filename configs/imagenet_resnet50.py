"""ResNet-50 on ImageNet at W4A4 (three or two bits: --quantized.weight-bits 3 --quantized.input-bits 3).

Reproduces: LG-LSQ (arXiv 2202.09009, abstract): full-precision accuracy at 3 bits.
Published, top-1 in %: LSQ (Esser et al., ICLR 2020; float 76.9) 76.7, 75.8, 73.7 at 4, 3, 2 bits.
This recipe has NOT been run to its end by this project; LG-LSQ's gradients are reconstructed from its abstract.
Expect, on 8 GPUs of about 150 TFLOP/s and 47 CPU cores (--data.workers 47): about 5 hours for 90 epochs
(6,112 images/s; 16 workers, the default here, decode 2,060).
Estimated from 4.09 G multiply-adds an image at an eighth of the peak; not measured.

Once: prepare TFDS's imagenet2012 as array_record files, or have train/ and val/ with a folder a class, and put
TorchVision's weights (ResNet50_Weights.IMAGENET1K_V1, 76.130 %) at /data. Then:

    python train.py imagenet_resnet50 --data.path /data/imagenet \
        --pretraining.weights /data/resnet50-0676ba61.pth
    python train.py imagenet_resnet50 --dry-run     # the whole way on made-up images, in minutes on 2 cores
"""

from lglsq_jax.data import DataConfig
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

config = TrainConfig(
    data=DataConfig(source="imagenet", batch_size=256, eval_batch_size=200, flip=True, workers=16),
    model=ModelConfig("resnet50"),
    pretraining=PretrainingConfig(epochs=90, learning_rate=0.1, warmup_epochs=5, weight_decay=1e-4),
    quantized=QuantizedConfig(
        epochs=90,
        learning_rate=0.01,
        weight_decay=5e-5,
        weight_bits=4,
        input_bits=4,
        calibration_batches=8,
    ),
    checkpoint_every=1000,
)
