"""ResNet-18 on ImageNet at W4A4 (three or two bits: --quantized.weight-bits 3 --quantized.input-bits 3).

Reproduces: LG-LSQ (arXiv 2202.09009, abstract): full-precision accuracy at 3 bits.
Published, top-1 in %: LSQ (Esser et al., ICLR 2020; float 70.5) 71.1, 70.2, 67.6 at 4, 3, 2 bits;
EWGS (Lee et al., CVPR 2021; float 69.9) 70.6, 69.7, 67.0.
This recipe has NOT been run to its end by this project; LG-LSQ's gradients are reconstructed from its abstract.
Expect, on 8 GPUs of about 150 TFLOP/s and 62 CPU cores (--data.workers 62): about 4 hours for 90 epochs,
limited by decoding (8,000 images/s; 16 workers, the default here, decode a quarter of that).
Estimated from 1.81 G multiply-adds an image at an eighth of the peak; not measured.

Once: prepare TFDS's imagenet2012 as array_record files, or have train/ and val/ with a folder a class, and put
TorchVision's weights (ResNet18_Weights.IMAGENET1K_V1, 69.758 %) at /data. Then:

    python train.py imagenet_resnet18 --data.path /data/imagenet \
        --pretraining.weights /data/resnet18-f37072fd.pth
    python train.py imagenet_resnet18 --dry-run     # the whole way on made-up images, in minutes on 2 cores
"""

from lglsq_jax.data import DataConfig
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

config = TrainConfig(
    data=DataConfig(source="imagenet", batch_size=256, eval_batch_size=200, flip=True, workers=16),
    model=ModelConfig("resnet18"),
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
