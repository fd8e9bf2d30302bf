"""What the literature adds to training at low bits, each alone on LG-LSQ: ResNet-8 at W2A2 on Fashion-MNIST; ten seeds.

    python -m lglsq_jax study configs/studies/practice.py

Data, network and schedule are those of configs/studies/methods.py. What each option does: docs/low-bits.md. A run has
188 quantized steps, in which a moving average of the weight 0.01 does not settle: a long run may show more, or less.
"""

from lglsq_jax.data import DataConfig
from lglsq_jax.study import Block, Setting, Study, Variant
from lglsq_jax.training import ModelConfig, PretrainingConfig, QuantizedConfig, TrainConfig

study = Study(
    name="practice",
    base=TrainConfig(
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
        quantized=QuantizedConfig(epochs=2, learning_rate=0.02, warmup_epochs=0.2),
        keep_checkpoints=1,
    ),
    blocks=(
        Block(
            title="Practice at W2A2",
            settings=(Setting("resnet8-w2a2", {"quantized.weight_bits": 2, "quantized.input_bits": 2}),),
            variants=(
                Variant("none", {}),
                Variant("batch-norm-50", {"quantized.batch_norm_batches": 50}),
                Variant("dampening-1e-3", {"quantized.dampening": 1e-3}),
                Variant("dampening-1e-2", {"quantized.dampening": 1e-2}),
                Variant("freezing-0.02", {"quantized.freeze_threshold": 0.02}),
                Variant(
                    "freezing-0.02-batch-norm-50",
                    {"quantized.freeze_threshold": 0.02, "quantized.batch_norm_batches": 50},
                ),
                Variant("stages-8-4-2", {"quantized.progressive_bits": (8, 4, 2), "quantized.epochs": 3}),
                Variant("three-epochs", {"quantized.epochs": 3}),
                Variant("distillation-0.5", {"quantized.distillation": 0.5}),
                Variant("asr-4-to-0", {"quantized.sharpness_start": 4.0, "quantized.sharpness": 0.0}),
                Variant("mde-decaying", {"quantized.strength_schedule": "decaying"}),
                Variant("by-channel-mse", {"quantized.per_channel": True, "quantized.weight_start": "mse"}),
                Variant("by-channel-max", {"quantized.per_channel": True, "quantized.weight_start": "max"}),
                Variant(
                    "bits-by-layer", {"quantized.bit_choices": (2, 3, 4), "quantized.size_budget": 2.5}
                ),  # larger: to be seen beside the others, not instead of them
                Variant("ends-x0.1", {"quantized.learning_rates": (("(conv1|fc)/.*", 0.1),)}),
                Variant("batch-norm-x0.1", {"quantized.learning_rates": ((".*/(bn[12]|downsample/1)/.*", 0.1),)}),
            ),
            baseline="none",
        ),
    ),
    seeds=10,
)
