"""Statistics of paired seeds: pure functions on arrays of one number a seed."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval that holds the true mean with a given confidence."""

    low: float
    high: float


def standard_error(values: Float[np.ndarray, "n"]) -> float:
    r"""Returns :math:`\sqrt{\sum (x - \bar x)^2 / (n - 1) / n}`; NaN for one value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def t_interval(differences: Float[np.ndarray, "n"], confidence: float = 0.95) -> Interval:
    r"""Returns :math:`\bar d \pm t_{n-1} \, \mathrm{se}`, Student's interval; NaN for one difference."""
    if len(differences) < 2:
        return Interval(float("nan"), float("nan"))
    reach = stats.t.ppf((1 + confidence) / 2, len(differences) - 1) * standard_error(differences)
    mean = float(np.mean(differences))
    return Interval(float(mean - reach), float(mean + reach))


def paired_p_value(differences: Float[np.ndarray, "n"]) -> float:
    r"""Returns the two-sided p-value of the paired t-test that the mean difference is 0; NaN for one difference.

    Where all differences are the same, which happens on small test sets, the test has no spread to go by: 1 where they
    are 0, and otherwise :math:`2^{1-n}`, that of the sign test.
    """
    count = len(differences)
    if count < 2:
        return float("nan")
    if np.all(differences == differences[0]):
        return 1.0 if differences[0] == 0 else 2.0 ** (1 - count)
    error = standard_error(differences)
    return float(2 * stats.t.sf(abs(float(np.mean(differences))) / error, count - 1))


def bootstrap_interval(
    differences: Float[np.ndarray, "n"], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Returns the percentile interval of the mean of differences that are drawn again with replacement.

    It assumes no normal distribution, and it is too narrow for few seeds (by a factor of about sqrt((n - 1) / n) and
    more): it stands beside ``t_interval``, not in its place. NaN for one difference.

    References: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    count = len(differences)
    if count < 2:
        return Interval(float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    means = np.asarray(differences)[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def holm(p_values: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    r"""Returns p-values corrected for their number by Holm's step-down method, in the given order.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`: :math:`\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1) p_{(j)})`.
    The chance of even one false claim among all comparisons stays below the level. A NaN (nothing to test) stays NaN
    and does not count.

    References: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979).
    """
    p_values = np.asarray(p_values, float)
    corrected = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, factors * p_values[order]))
    return corrected
