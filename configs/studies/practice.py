"""What the literature adds to training at low bits, each alone on LG-LSQ: ResNet-8 at W2A2 on Fashion-MNIST; ten seeds.

    python -m lglsq_jax study configs/studies/practice.py

Data, network and schedule are those of configs/studies/methods.py. What each option does: docs/low-bits.md. A run has
188 quantized steps, in which a moving average of the weight 0.01 does not settle: a long run may show more, or less.
"""

from _short_resnet8 import SHORT_RESNET8, bits

from lglsq_jax.study import Block, Setting, Study, Variant

study = Study(
    name="practice",
    base=SHORT_RESNET8,
    blocks=(
        Block(
            title="Practice at W2A2",
            settings=(Setting("resnet8-w2a2", bits(2)),),
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
                Variant("stream-8", {"quantized.stream_bits": 8}),
                Variant("ends-x0.1", {"quantized.learning_rates": (("(conv1|fc)/.*", 0.1),)}),
                Variant("batch-norm-x0.1", {"quantized.learning_rates": ((".*/(bn[12]|downsample/1)/.*", 0.1),)}),
            ),
            baseline="none",
        ),
    ),
    seeds=10,
)
