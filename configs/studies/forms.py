"""Forms of SSG and MDE at W2A2, each a change of LG-LSQ: chosen here, on the digits and on half of Fashion-MNIST.

    python -m lglsq_jax study configs/studies/forms.py --processes 2

What configs/studies/search.py left: SSG's constants, MDE's other schedules, and the power of its error (0 acts alike
all over a rounding cell, 3 near its edges alone). Judged by the 360 test images of the embedded digits, with ResNet-8
as in quick.py, and by 10,000 training images of the first half of Fashion-MNIST, with DS-CNN. Six seeds: enough to
choose by, not to claim anything.

How is chosen, written before the first run: of the changed forms the one with the largest sum of its two mean
differences to LSQ, each divided by the root mean square of all forms' standard errors in that setting. It is tried once
beside LSQ and LG-LSQ, with ResNet-8 and with DS-CNN at W2A2, with seeds 600 to 615, trained on images of the second
half of the training set and judged by the test set.
"""

from _short_resnet8 import TO_CHOOSE_BY, bits
from methods import NETWORKS
from quick import study as quick
from search import variant

from lglsq_jax.study import Block, Setting, Study, Variant
from lglsq_jax.study.plan import changes_to


def form(name: str, **constants) -> Variant:
    """LG-LSQ with other constants."""
    return variant(name, "lg_lsq", **constants)


study = Study(
    name="forms",
    base=TO_CHOOSE_BY,
    blocks=(
        Block(
            "Forms of LG-LSQ, against LSQ",
            (
                Setting("digits-w2a2", {**changes_to(TO_CHOOSE_BY, quick.base), **bits(2)}),
                Setting("ds_cnn-w2a2", {**NETWORKS["ds_cnn"], **bits(2)}),
            ),
            (
                Variant("lsq"),
                Variant("lg_lsq"),
                form("tau-0.03", tau=0.03),
                form("tau-0.3", tau=0.3),
                form("eta-0", eta=0.0),
                form("eta-0.1", eta=0.1),
                form("mde-constant", strength_schedule="constant"),
                form("mde-cosine", strength_schedule="cosine"),
                form("mde-0.2-power-0", strength=0.2, strength_power=0.0),
                form("mde-0.2-power-3", strength=0.2, strength_power=3.0),
            ),
            baseline="lsq",
        ),
    ),
    seeds=6,
    first_seed=500,
)
