"""The paper's own claim, asked with seeds of its own: are ASR and MDE better than STE in uniform quantizers?

    python -m lglsq_jax study configs/studies/uniform.py --processes 2

Asked before the first run: at W2A2, ASR with MDE on LSQ, on LSQ+ and on PACT is better than each with STE. The tables
of methods.py, seeds 0 to 9 judged on the test set, could not say so. Here are twenty other seeds, each judged by 10,000
images of the half of the training set by which no constant was chosen. Three comparisons, 120 runs. The plan was run
twice: first_seed=200, of which the differences alone are left, and then this one; docs/study.md tells of both.
"""

from _short_resnet8 import ON_OTHER_IMAGES, bits

from lglsq_jax.study import Block, Setting, Study, Variant

study = Study(
    name="uniform",
    base=ON_OTHER_IMAGES,
    blocks=tuple(
        Block(
            f"ASR and MDE on {title}",
            (Setting("resnet8-w2a2", bits(2)),),
            (Variant(name), Variant(f"{name}+asr+mde")),
            baseline=name,
        )
        for title, name in (("LSQ", "lsq"), ("LSQ+", "lsq_plus"), ("PACT", "pact"))
    ),
    seeds=20,
    first_seed=300,
)
