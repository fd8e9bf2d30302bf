"""One question with seeds of its own: does SSG bear a learning rate of the scales that is too high for LSQ?

    python -m lglsq_jax study configs/studies/scale_rate.py --processes 2

Asked before the first run: at W2A2, with 3 and 10 times the usual rate of the scales, LG-LSQ, and LSQ with SSG alone,
are better than LSQ. The robustness tables of methods.py, seeds 0 to 9 judged on the test set, came near it and could
not claim it. Here are twenty other seeds, each judged by 10,000 images of the half of the training set by which no
constant was chosen. Four comparisons, 120 runs.
"""

from _short_resnet8 import ON_OTHER_IMAGES, RATE, bits

from lglsq_jax.study import Block, Setting, Study, Variant

study = Study(
    name="scale_rate",
    base=ON_OTHER_IMAGES,
    blocks=(
        Block(
            "A rate of the scales that is too high",
            tuple(
                Setting(
                    f"resnet8-w2a2-scale-rate-x{factor}", {**bits(2), "quantized.scale_learning_rate": factor * RATE}
                )
                for factor in (3, 10)
            ),
            (Variant("lsq"), Variant("lsq+ssg"), Variant("lg_lsq")),
            baseline="lsq",
        ),
    ),
    seeds=20,
    first_seed=100,
)
