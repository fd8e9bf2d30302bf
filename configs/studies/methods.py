"""All methods and each part of LG-LSQ on Fashion-MNIST: three networks, three widths, robustness; ten seeds.

    python -m lglsq_jax study configs/studies/methods.py --processes 2

The four files come with Debian's package dataset-fashion-mnist. Sized for two CPU cores by the data, not by the seeds:
12,000 training images (drawn anew for each seed) and two quantized epochs from a float network of six. ResNet-20 and
DS-CNN, the one with depthwise convolutions, see 7x7 features: their stems have stride 4. 1,650 runs and 50 float
networks: about eight hours on two cores, and --list says how long what is left takes.
All of one table at one width: --only 'resnet8-w2a2/*'. A shorter study is seeds=5 below, which can claim nothing yet.
"""

from _short_resnet8 import RATE, SHORT_RESNET8, bits

from lglsq_jax.study import Block, Setting, Study, Variant

NETWORKS = {
    "resnet8": {},
    "resnet20": {"model.name": "resnet20", "model.stem_stride": 4},
    "ds_cnn": {"model.name": "ds_cnn", "model.stem_stride": 4},
}


def named(*names: str) -> tuple[Variant, ...]:
    return tuple(Variant(name) for name in names)


EVERYWHERE = tuple(
    Setting(f"{name}-w{width}a{width}", {**changes, **bits(width)})
    for name, changes in NETWORKS.items()
    for width in (4, 3, 2)
)
ROBUSTNESS = {
    **{f"scale-rate-x{factor:g}": {"quantized.scale_learning_rate": factor * RATE} for factor in (0.1, 0.3, 3, 10, 30)},
    "start-x0.25": {"quantized.scale_start_factor": 0.25},
    "start-x4": {"quantized.scale_start_factor": 4.0},
    "one-epoch": {"quantized.epochs": 1},
    "noise-0.2": {"data.label_noise": 0.2},
    "noise-0.4": {"data.label_noise": 0.4},
}

study = Study(
    name="methods",
    base=SHORT_RESNET8,
    blocks=(
        Block(
            "Methods against LSQ",
            EVERYWHERE,
            named("lsq", "lsq_plus", "llsq", "ewgs", "pact", "dorefa", "lg_lsq"),
            baseline="lsq",
        ),
        Block(
            "Each part of LG-LSQ alone, on LSQ",
            EVERYWHERE,
            named("lsq", "lsq+ssg", "lsq+asr", "lsq+mde"),
            baseline="lsq",
        ),
        Block(
            "Each part of LG-LSQ left out",
            EVERYWHERE,
            named("lg_lsq", "lsq+asr+mde", "lg_lsq-asr", "lg_lsq-mde"),
            baseline="lg_lsq",
        ),
        Block("ASR and MDE on LSQ", EVERYWHERE, named("lsq", "lsq+asr+mde"), baseline="lsq"),
        Block("ASR and MDE on LSQ+", EVERYWHERE, named("lsq_plus", "lsq_plus+asr+mde"), baseline="lsq_plus"),
        Block("ASR and MDE on PACT", EVERYWHERE, named("pact", "pact+asr+mde"), baseline="pact"),
        Block(
            "Robustness at W2A2, ResNet-8",
            tuple(Setting(f"resnet8-w2a2-{name}", {**bits(2), **changes}) for name, changes in ROBUSTNESS.items()),
            named("lsq", "lg_lsq", "lsq+asr+mde"),
            baseline="lsq",
        ),
    ),
    seeds=10,
)
