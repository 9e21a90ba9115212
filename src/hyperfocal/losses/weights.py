"""Weights of the labels, and the initial output bias, from the labels' counts."""

import math
import reprlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import has_data
from hyperfocal.losses.options import check_choice, constant

Counts = Tensor | Sequence[float]

SMALLEST = torch.finfo(torch.float32).tiny
LARGEST = torch.finfo(torch.float64).max


def capped_weights(
    counts: Counts,
    scheme: str = "inverse",
    *,
    cap: float | None = 7.0,
    beta: float = 0.999,
    normalise: bool = False,
    num_examples: float | None = None,
) -> Tensor:
    """Return a weight for each label, larger for rarer labels and at most `cap`.

    With c the count of a label, c_max the largest count, n the number of examples:

        inverse            c_max / c: the most frequent label weighs 1
        sqrt_inverse       sqrt(c_max / c)
        effective_number   (1 - beta^c_max) / (1 - beta^c), the inverse of the effective number of examples
        balanced           n / (L * c), as class_weight="balanced" of scikit-learn

    then, if `normalise`, divided by their mean over the labels that have an example, so that the mean
    is 1; then min(weight, cap). A label without an example gets the cap; without a cap, the weight of a
    label with one example. If no label has an example, all weights are equal: the cap, or without a cap 1
    (`balanced` with num_examples: n / L). A weight that float32 cannot hold becomes
    the nearest positive number that it holds.

    Args:
        counts: (L,) examples of each label, not negative.
        scheme: one of the four names.
        cap: at least 1, the largest weight; None for no cap.
        beta: in [0, 1), effective_number only: 0 gives equal weights, and beta -> 1 gives `inverse`.
        normalise: whether to make the mean 1 before the cap.
        num_examples: n, balanced only; None: the sum of the counts, which is n if each example has one label.

    Returns:
        (L,) float32, finite and above 0.

    Raises:
        ConfigError: unknown scheme; cap, beta or num_examples out of range.
        DataError: counts that are no numbers, negative, not finite or not one-dimensional.

    Source: Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples, equation 2. There the
    weights are (1 - beta) / (1 - beta^c), normalised to the mean 1; here the most frequent label starts at 1.

    >>> capped_weights([1000, 250, 100, 0], cap=7.0).tolist()
    [1.0, 4.0, 7.0, 7.0]
    """
    check_choice("scheme", scheme, list(SCHEMES))
    if cap is not None and not 1 <= cap < math.inf:
        raise ConfigError(f"cap = {cap!r} is not allowed. Expected a number of 1 or more, or None")
    if not 0 <= beta < 1:
        raise ConfigError(f"beta = {beta!r} is not allowed. Expected a number from 0 and below 1")
    if num_examples is not None and not 1 <= num_examples < math.inf:
        raise ConfigError(f"num_examples = {num_examples!r} is not allowed. Expected 1 or more, or None")
    counts = as_counts(counts)
    number = float(counts.sum()) if num_examples is None else float(num_examples)
    number = min(number, LARGEST) or float(len(counts))  # no example at all: as if each label had one
    weights = SCHEMES[scheme](counts.clamp(min=1), beta, number).clamp(min=SMALLEST)
    if normalise and bool((counts > 0).any()):
        weights = weights / weights[counts > 0].mean()
    if cap is not None:
        weights = torch.where(counts > 0, weights.clamp(max=cap), cap)
    return weights.clamp(SMALLEST, torch.finfo(torch.float32).max).float()


def _effective_number(counts: Tensor, beta: float) -> Tensor:
    if beta == 0:
        return torch.ones_like(counts)
    effective = -torch.expm1(counts * math.log(beta))  # 1 - beta^c, exact for beta near 1
    return effective.max() / effective


SCHEMES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "inverse": lambda counts, beta, number: counts.max() / counts,
    "sqrt_inverse": lambda counts, beta, number: (counts.max() / counts).sqrt(),
    "effective_number": lambda counts, beta, number: _effective_number(counts, beta),
    "balanced": lambda counts, beta, number: number / (len(counts) * counts),
}


def prior_bias(prior: float) -> float:
    """Return the logit whose sigmoid is the prior probability of a positive.

    bias = -log((1 - pi) / pi) = log(pi / (1 - pi)), a *negative* number for a rare label. Articles
    often print it without the minus sign: then every label starts at 1 - pi and training diverges.

    Args:
        prior: pi, the expected fraction of positives, in (0, 1).

    Raises:
        ConfigError: pi outside (0, 1).

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, section 4.1.

    >>> round(prior_bias(0.01), 4)
    -4.5951
    """
    if not 0 < prior < 1:
        raise ConfigError(f"prior = {prior!r} is not allowed. Expected a probability above 0 and below 1")
    return -math.log((1 - prior) / prior)


def frequency_bias(counts: Counts, num_examples: float, *, smoothing: float = 1.0) -> Tensor:
    """Return, for each label, the logit whose sigmoid is the smoothed frequency of the label.

        bias = log((c + s) / (n - c + s)), so that sigmoid(bias) = (c + s) / (n + 2 s)

    Args:
        counts: (L,) examples of each label.
        num_examples: n, at least the largest count.
        smoothing: s, above 0: keeps the bias finite for a label that no example or every example has.

    Returns:
        (L,) float32.

    Raises:
        ConfigError: smoothing not above 0.
        DataError: counts that are negative, not finite, not one-dimensional or above num_examples.

    >>> frequency_bias([0, 49, 98], num_examples=98).mul(10_000).round().tolist()
    [-45951.0, 0.0, 45951.0]
    """
    if not 0 < smoothing < math.inf:
        raise ConfigError(f"smoothing = {smoothing!r} is not allowed. Expected a number above 0")
    counts = as_counts(counts, at_most=num_examples)
    return torch.log((counts + smoothing) / (num_examples - counts + smoothing)).float()


def log_frequencies(counts: Counts) -> Tensor:
    """Return log(c / sum of c) of each label: the log prior of examples with one label each.

    Args:
        counts: (L,) examples of each label, or sums of weights; a label without an example counts as one.

    Returns:
        (L,) float32.

    Raises:
        DataError: counts that are negative, not finite or not one-dimensional.

    >>> log_frequencies([3, 1]).exp().tolist()
    [0.75, 0.25]
    """
    counts = as_counts(counts)
    counts = counts.where(counts > 0, 1.0)
    return (counts / counts.sum()).log().float()


def as_counts(counts: Counts, *, at_most: float = math.inf) -> Tensor:
    """Return counts as (L,) float64.

    Raises:
        DataError: counts that are no numbers, negative, not finite, not one-dimensional or above `at_most`.
    """
    numbers = _numbers(counts)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise DataError(f"counts are {tuple(numbers.shape)}. Expected one number per label, (L,)")
    wrong = ~((numbers >= 0) & numbers.isfinite() & (numbers <= at_most))
    if bool(wrong.any()):
        label = int(wrong.nonzero()[0])
        most = "finite and not negative" if at_most == math.inf else f"from 0 to {at_most}, the number of examples"
        raise DataError(f"counts: label {label} has {numbers[label].item()} examples. Expected a number {most}")
    return numbers


def _numbers(counts: Counts) -> Tensor:
    """Return counts as float64 on the CPU; raise DataError if they are no numbers."""
    numbers = constant("counts", counts) if isinstance(counts, Tensor) else _converted(counts)
    if numbers.is_complex() or not has_data(numbers):
        raise DataError(f"counts are {numbers.dtype} on {numbers.device}. Expected real numbers with data, (L,)")
    return numbers.double().cpu()


def _converted(counts: Sequence[float]) -> Tensor:
    try:
        if isinstance(counts, list | tuple):
            return torch.tensor(counts, dtype=torch.float64)  # torch would take them for float32
        return torch.tensor(np.array(counts))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(
            f"counts are no numbers: {reprlib.repr(counts)}. Expected one number per label, (L,)"
        ) from error
