"""Distribution-balanced loss (DB): tolerated negatives, and weights that correct for co-occurrence."""

from typing import Unpack

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses.focal import focal, focal_with_slope
from hyperfocal.losses.options import LossOptions, check_range, check_vector
from hyperfocal.losses.separable import SeparableLoss
from hyperfocal.losses.terms import TermWeights, ValueAndSlope
from hyperfocal.losses.weights import Counts, as_counts


class DistributionBalancedLoss(SeparableLoss):
    """Distribution-balanced loss; some settings give R-BCE and negative-tolerant focal loss.

    With n examples of which c[l] have label l, f(z) = sigmoid(z)^gamma * softplus(z), and z shifted by s[l]:

        pos(z) = f(-z)
        neg(z) = f(negative_scale * z) / negative_scale
        s[l]   = kappa * -log(n / c[l] - 1)
        r[i,l] = alpha + sigmoid(beta * (q[i,l] - mu)),  q[i,l] = (1 / c[l]) / sum over positives j of i of 1 / c[j]

    The logit of a rare label is shifted down, so its negatives are soon right; `negative_scale` > 1 makes their
    slope vanish earlier. If labels are drawn uniformly, and then an example of the label, q is the probability to
    draw example i for label l over the probability to draw it for any label; it weighs positives and negatives of
    an example alike.

    R-BCE         gamma=0, kappa=0, negative_scale=1
    R-focal       kappa=0, negative_scale=1
    NTR-focal     rebalance=False
    DB, DB-0FL    the defaults; gamma=0

    For s, counts are clipped to [1/2, n - 1/2], so that s is finite; for q, to at least 1. A row without positives
    has q = 0.

    Args:
        counts: (L,) training examples of each label.
        num_examples: n, the training examples.
        gamma: in [0, 5].
        rebalance: whether to weigh the terms by r; otherwise r = 1.
        alpha: at least 0, the smallest weight.
        beta: at least 0, how sharply the weight rises.
        mu: the q at which the weight has risen by half. The paper on texts uses 0.9, the paper on images 0.2 and 0.3.
        kappa: at least 0; 0 for no shift.
        negative_scale: above 0; 1 for none.
        options: see LossOptions.

    Raises:
        ConfigError: a number out of range; an option that is not allowed.
        DataError: counts that are negative, not finite, not one-dimensional or above num_examples.

    Source: Wu et al. 2020, Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets,
    sections 3.1 and 3.2; Huang et al. 2021, Balancing Methods for Multi-label Text Classification, section 3. Their
    programs also multiply the whole loss by 2 or 10; here the learning rate does that.
    """

    inverse_counts: Tensor

    def __init__(
        self,
        counts: Counts,
        num_examples: float,
        *,
        gamma: float = 2.0,
        rebalance: bool = True,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.9,
        kappa: float = 0.05,
        negative_scale: float = 2.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(**options)
        check_range("gamma", gamma, 0, 5)
        for name, value in {"alpha": alpha, "beta": beta, "mu": mu, "kappa": kappa}.items():
            check_range(name, value, 0, torch.inf)
        if not 0 < negative_scale < torch.inf:
            raise ConfigError(f"negative_scale = {negative_scale!r} is not allowed. Expected a number above 0")
        if not 1 <= num_examples < torch.inf:
            raise ConfigError(f"num_examples = {num_examples!r} is not allowed. Expected 1 or more")
        counted = as_counts(counts, at_most=num_examples)
        self.register_buffer("inverse_counts", (1 / counted.clamp(min=1)).float(), persistent=False)
        if kappa > 0:
            inside = counted.clamp(0.5, num_examples - 0.5)
            self.logit_shift = (kappa * torch.log(inside / (num_examples - inside))).float()
        self.gamma = gamma
        self.rebalance = rebalance
        self.alpha, self.beta, self.mu = alpha, beta, mu
        self.kappa = kappa
        self.negative_scale = negative_scale

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        weights = f"rebalance={self.rebalance}, alpha={self.alpha}, beta={self.beta}, mu={self.mu}"
        tolerance = f"kappa={self.kappa}, negative_scale={self.negative_scale}"
        return f"gamma={self.gamma}, {weights}, {tolerance}, {super().extra_repr()}"

    def positive(self, logits: Tensor) -> Tensor:
        """Return f(-z)."""
        return focal(-logits, self.gamma)

    def negative(self, logits: Tensor) -> Tensor:
        """Return f(negative_scale * z) / negative_scale."""
        return focal(self.negative_scale * logits, self.gamma) / self.negative_scale

    def positive_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return pos(z) and its derivative, -f'(-z)."""
        value, slope = focal_with_slope(-logits, self.gamma)
        return value, slope.neg_()

    def negative_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return neg(z) and its derivative, f'(negative_scale * z)."""
        value, slope = focal_with_slope(self.negative_scale * logits, self.gamma)
        return value.div_(self.negative_scale), slope

    def term_weights(self, labels: SparseLabels) -> TermWeights | None:
        """Return a function from a chunk of labels to alpha + sigmoid(beta * (q - mu)), (B, C)."""
        if not self.rebalance:
            return None
        check_vector("counts", self.inverse_counts, labels.num_labels)
        inverse = self.inverse_counts.to(labels.indices.device)
        drawn = inverse.new_zeros(len(labels)).index_add(0, labels.rows, inverse[labels.indices])
        share = torch.where(drawn > 0, 1 / drawn, 0)[:, None]

        def weights(chunk: slice) -> Tensor:
            return self.alpha + torch.sigmoid(self.beta * (share * inverse[chunk] - self.mu))

        return weights
