"""Sampled softmax and generalised binary cross-entropy."""

import math
from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional

from hyperfocal.losses.options import check_range
from hyperfocal.losses.sampling import SampledLoss, SampledOptions, Scores


class SampledSoftmaxLoss(SampledLoss):
    """Cross-entropy of each positive against the drawn labels.

    With z of a positive l, and d over the N drawn labels that are no positives, each drawn with probability q[d]:

        loss of i = mean over positives l of  w[l] * log(1 + sum over d of exp(z[d] - log(N * q[d]) - z[l]))

    The correction log(N * q) makes the sum an unbiased estimate of the sum over all other labels, so that popular
    labels, which are drawn often, are not pushed down for it. The positive is always there and needs none. Several
    positives of an example do not compete with each other. An example without positives has loss 0.

    Args:
        num_negatives: N, at least 1.
        correction: whether log(N * q) is subtracted.
        options: see SampledLoss.

    Raises:
        ConfigError: a number out of range; an option that is not allowed.

    Source: Bengio and Senecal 2008, Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model; Yi et al. 2019, equation 3. There the positive is corrected like a draw.
    """

    def __init__(self, num_negatives: int, *, correction: bool = True, **options: Unpack[SampledOptions]) -> None:
        super().__init__(num_negatives, **options)
        self.correction = correction

    def row_losses(self, scores: Scores) -> Tensor:
        """Return (B,), the mean of log(1 + sum of exp(z[d] - z[l])) over the positives l of each row."""
        drawn = scores.drawn
        if self.correction and self.probabilities is not None:
            drawn = drawn - torch.log(self.num_negatives * self.probabilities.to(drawn)[scores.ids])
        elif self.correction:
            drawn = drawn - math.log(self.num_negatives / scores.num_labels)
        each = scores.share * functional.softplus(drawn.logsumexp(1)[scores.rows] - scores.right)
        return each.new_zeros(len(drawn)).index_add(0, scores.rows, each)


class GBCELoss(SampledLoss):
    """Generalised binary cross-entropy: BCE on drawn negatives that does not become overconfident.

    With z of a positive l, and d over the N drawn labels that are no positives:

        loss of i = (mean over positives l of w[l] * b * softplus(-z[l])  +  sum over d of softplus(z[d])) / (N + 1)
        b = a * (t * (1 - 1/a) + 1/a),  a = N / (L - 1)

    With so few negatives the sigmoid of a plain BCE overstates every probability; b < 1 undoes it: at t = 1
    (b = a) the sigmoids are calibrated, at t = 0 (b = 1) this is plain sampled BCE. With as many negatives
    as there are (a = 1), b is 1 for every t. An example without positives has loss 0.

    Args:
        num_negatives: N, at least 1; a is at most 1.
        t: in [0, 1].
        options: see SampledLoss.

    Raises:
        ConfigError: a number out of range; an option that is not allowed.

    Source: Petrov and Macdonald 2023, gSASRec: Reducing Overconfidence in Sequential Recommendation Trained
    with Negative Sampling, section 5. There each example has one positive.
    """

    def __init__(self, num_negatives: int, *, t: float = 0.75, **options: Unpack[SampledOptions]) -> None:
        super().__init__(num_negatives, **options)
        check_range("t", t, 0, 1)
        self.t = t

    def row_losses(self, scores: Scores) -> Tensor:
        """Return (B,), the loss of positives and negatives of each row over N + 1."""
        rate = min(self.num_negatives / max(scores.num_labels - 1, 1), 1)
        power = rate * (self.t * (1 - 1 / rate) + 1 / rate)
        right = scores.share * power * functional.softplus(-scores.right)
        return functional.softplus(scores.drawn).sum(1).index_add(0, scores.rows, right) / (self.num_negatives + 1)
