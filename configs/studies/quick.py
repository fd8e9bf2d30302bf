"""LSQ, LG-LSQ, and ASR and MDE on top of LSQ: a short ResNet-8 on the embedded digits at W2A2, ten seeds.

    python -m lglsq_jax study configs/studies/quick.py

30 runs and 10 float networks: 26 minutes on two busy cores; the table is in docs/study.md. The test set has 360 images,
so that one image is 0.28 points: a study of this size can show large differences only.
"""

from lglsq_jax.data import DataConfig
from lglsq_jax.study import Block, Setting, Study, Variant
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

study = Study(
    name="quick",
    base=TrainConfig(
        data=DataConfig(source="digits", batch_size=64, eval_batch_size=360, crop_padding=1),
        model=ModelConfig("resnet8", stem_stride=2),
        pretraining=PretrainingConfig(epochs=8, learning_rate=0.1),
        quantized=QuantizedConfig(epochs=4, learning_rate=0.04, calibration_batches=1),
        keep_checkpoints=1,
    ),
    blocks=(
        Block(
            title="Against LSQ, 8 + 4 epochs",
            settings=(Setting("digits-w2a2", {"quantized.weight_bits": 2, "quantized.input_bits": 2}),),
            variants=(Variant("lsq"), Variant("lg_lsq"), Variant("lsq+asr+mde")),
            baseline="lsq",
        ),
    ),
    seeds=10,
)
