"""One question on a depthwise network, with seeds of its own: are ASR with MDE, and LG-LSQ, better than LSQ there?

    python -m lglsq_jax study configs/studies/depthwise.py --processes 2

Asked before the first run: at W2A2 on DS-CNN, ASR with MDE on LSQ, and LG-LSQ, are better than LSQ. The first five
seeds of methods.py, judged on the test set, had them 0.7 points above it, three times what ResNet-8 has, and could not
claim it. Here are sixteen other seeds, each judged by 10,000 images of the half of Fashion-MNIST's training set by
which no constant was chosen. Two comparisons, 48 runs and 16 float networks.
"""

from _short_resnet8 import ON_OTHER_IMAGES, bits

from lglsq_jax.study import Block, Setting, Study, Variant

study = Study(
    name="depthwise",
    base=ON_OTHER_IMAGES,
    blocks=(
        Block(
            "ASR, MDE and LG-LSQ on a depthwise network",
            (Setting("ds_cnn-w2a2", {"model.name": "ds_cnn", "model.stem_stride": 4, **bits(2)}),),
            (Variant("lsq"), Variant("lsq+asr+mde"), Variant("lg_lsq")),
            baseline="lsq",
        ),
    ),
    seeds=16,
    first_seed=400,
)
