"""Losses that score only the positives and a few drawn labels, for catalogues too large for a pass over all labels.

All examples of a batch share the drawn labels: their logits are one small matrix product. A drawn label that
is a positive of an example, or masked, does not count as a negative of that example. Plain torch and autograd; the
gradient of `weight` is dense, with zeros in the rows that were not scored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional

from hyperfocal.distributed import from_first
from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses.base import FusedLoss
from hyperfocal.losses.options import RowOptions, check_finite, check_range, check_vector, label_vector, scale_of
from hyperfocal.losses.walk_operator import LOSSES


class SampledOptions(RowOptions, total=False):
    """The keyword options that every sampled loss takes; see SampledLoss."""

    distribution: Tensor | Sequence[float] | None
    generator: torch.Generator | None
    shared_draws: bool
    reduction: str


@dataclass(frozen=True, eq=False)
class Scores:
    """The logits of one batch: of the positives and of the drawn labels."""

    positive: Tensor  # (P,) logits of the positives
    rows: Tensor  # (P,) int64, the example of each positive
    share: Tensor  # (P,) weight of each positive / number of positives of its example; 0 for a masked positive
    drawn: Tensor  # (B, N) logits of the drawn labels, -inf for one that does not count
    ids: Tensor  # (N,) int64, the drawn labels
    num_labels: int  # L


class SampledLoss(FusedLoss):
    """The base of the sampled losses: draws labels, scores them, reduces the losses of the examples.

    Args:
        num_negatives: N, labels drawn per batch, with replacement; at least 1.
        distribution: (L,) not negative, the relative frequency with which each label is drawn; None: uniform.
        generator: of the draws, to repeat them; None: torch's default generator.
        shared_draws: whether several processes (`hyperfocal.distributed`) use the draws of the first, because they
            hold parts of one batch.
        reduction: see LossOptions; here the sum over *examples* is divided, and the default is "batch".
        positive_weight, ignore_empty, check_finite: see LossOptions.

    Raises:
        ConfigError: a number out of range; an option that is not allowed.
    """

    probabilities: Tensor | None

    def __init__(
        self,
        num_negatives: int,
        *,
        distribution: Tensor | Sequence[float] | None = None,
        generator: torch.Generator | None = None,
        shared_draws: bool = False,
        reduction: str = "batch",
        positive_weight: Tensor | Sequence[float] | None = None,
        ignore_empty: bool = False,
        check_finite: bool = False,
    ) -> None:
        super().__init__(
            reduction=reduction, positive_weight=positive_weight, ignore_empty=ignore_empty, check_finite=check_finite
        )
        if num_negatives < 1:
            raise ConfigError(f"num_negatives = {num_negatives!r} is not allowed. Expected 1 or more")
        self.num_negatives = num_negatives
        self.generator = generator
        self.shared_draws = shared_draws
        self.register_buffer("probabilities", _probabilities(distribution), persistent=False)

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        return f"num_negatives={self.num_negatives}, reduction={self.reduction!r}"

    def row_losses(self, scores: Scores) -> Tensor:
        """Return the loss of each example, (B,); 0 for one without positives."""
        raise NotImplementedError(f"{type(self).__name__} must define row_losses(scores)")

    def draw(self, num_labels: int, device: torch.device) -> Tensor:
        """Return the labels drawn for one batch, with replacement, (N,) int64."""
        count, generator = self.num_negatives, self.generator
        place = device if generator is None else generator.device
        if self.probabilities is None:
            ids = torch.randint(num_labels, (count,), generator=generator, device=place)
        else:
            edges = self.probabilities.to(place).double().cumsum(0)
            points = edges[-1] * torch.rand(count, generator=generator, device=place, dtype=torch.float64)
            ids = torch.searchsorted(edges, points, right=True).clamp(max=num_labels - 1)
        ids = ids.to(device)
        return from_first(ids) if self.shared_draws else ids

    def check_vectors(self, num_labels: int) -> None:
        """Raise DataError unless every vector of the loss has one number per label."""
        super().check_vectors(num_labels)
        check_vector("distribution", self.probabilities, num_labels)

    def compute(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels, mask: SparseLabels | None
    ) -> Tensor:
        """Return the loss over the positives and the drawn labels; only their rows of `weight` are read."""
        if self.options.check_finite:
            check_finite(hidden=hidden, weight=weight, bias=bias)
        labels, mask = labels.to(hidden.device), None if mask is None else mask.to(hidden.device)
        ids = _drawn_by(self, hidden, len(weight))
        left, right = hidden.index_select(0, labels.rows), weight.index_select(0, labels.indices)
        positive = (left.float() * right if hidden.dtype != torch.float64 else left * right).sum(1)
        positive = positive if bias is None else positive + bias[labels.indices]
        drawn = functional.linear(hidden, weight.index_select(0, ids), None if bias is None else bias[ids])
        return self._reduce(positive, drawn, ids, labels, mask)

    def compute_dense(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
        """Return the loss over the positives and the drawn labels, from checked (B, L) logits."""
        ids = _drawn_by(self, logits, labels.num_labels)
        return self._reduce(logits[labels.rows, labels.indices], logits[:, ids], ids, labels, mask)

    def _reduce(
        self, positive: Tensor, drawn: Tensor, ids: Tensor, labels: SparseLabels, mask: SparseLabels | None
    ) -> Tensor:
        exact = torch.promote_types(drawn.dtype, torch.float32)
        positive, drawn = positive.to(exact), drawn.to(exact)
        counted, hits = torch.ones_like(positive), labels.holds(ids)
        terms = torch.full_like(labels.lengths, labels.num_labels)
        if mask is not None:
            counted, hits, terms = (~labels.among(mask)).to(exact), hits | mask.holds(ids), terms - mask.lengths
            positive = positive.masked_fill(counted == 0, 0)
        counts = counted.new_zeros(len(labels)).index_add(0, labels.rows, counted)
        share = counted / counts.clamp(min=1)[labels.rows]
        if self.positive_weight is not None:
            share = share * self.positive_weight.to(share)[labels.indices]
        drawn = drawn.masked_fill(hits | (counts == 0)[:, None], -torch.inf)
        rows = self.row_losses(Scores(positive, labels.rows, share, drawn, ids, labels.num_labels))
        rows = rows * scale_of(counts, terms, self.options, exact)
        return rows if self.reduction == "none" else rows.sum()


class SampledSoftmaxLoss(SampledLoss):
    """Cross-entropy of each positive against the drawn labels.

    With z of a positive l, and d over the N drawn labels that are not positives, each drawn with probability q[d]:

        loss of i = mean over positives l of  w[l] * log(1 + sum over d of exp(z[d] - log(N * q[d]) - z[l]))

    The correction log(N * q) makes the sum an unbiased estimate of the sum over all other labels, so that popular
    labels are not ranked down because they are drawn often. The positive is always scored and needs no correction.
    Several positives of an example do not compete with each other. An example without positives has loss 0.

    Args:
        num_negatives: N, at least 1.
        correction: whether log(N * q) is subtracted.
        options: see SampledLoss.

    Raises:
        ConfigError: a number out of range; an option that is not allowed.

    Source: Bengio and Senecal 2008, Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model; Yi et al. 2019, equation 3. There the positive is corrected like a drawn label.
    """

    def __init__(self, num_negatives: int, *, correction: bool = True, **options: Unpack[SampledOptions]) -> None:
        super().__init__(num_negatives, **options)
        self.correction = correction

    def row_losses(self, scores: Scores) -> Tensor:
        """Return the mean of log(1 + sum of exp(z[d] - z[l])) over the positives l of each row, (B,)."""
        drawn = scores.drawn
        if self.correction and self.probabilities is not None:
            drawn = drawn - torch.log(self.num_negatives * self.probabilities.to(drawn)[scores.ids])
        elif self.correction:
            drawn = drawn - math.log(self.num_negatives / scores.num_labels)
        drawn = drawn.clamp(min=torch.finfo(drawn.dtype).min)  # a row of -inf has a log-sum-exp with slopes of nan
        each = scores.share * functional.softplus(drawn.logsumexp(1)[scores.rows] - scores.positive)
        return each.new_zeros(len(drawn)).index_add(0, scores.rows, each)


class GBCELoss(SampledLoss):
    """Generalised binary cross-entropy: BCE on drawn negatives that does not become overconfident.

    With z of a positive l, and d over the N drawn labels that are not positives:

        loss of i = (mean over positives l of w[l] * b * softplus(-z[l])  +  sum over d of softplus(z[d])) / (N + 1)
        b = a * (t * (1 - 1/a) + 1/a),  a = N / (L - 1)

    With few negatives the sigmoid of a plain BCE overstates every probability; b < 1 corrects it: at t = 1
    (b = a) the sigmoids are calibrated, at t = 0 (b = 1) this is plain sampled BCE. With L - 1 negatives (a = 1),
    b is 1 for every t. An example without positives has loss 0.

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
        """Return the loss of positives and negatives of each row, divided by N + 1, (B,)."""
        rate = min(self.num_negatives / max(scores.num_labels - 1, 1), 1)
        power = rate * (self.t * (1 - 1 / rate) + 1 / rate)
        positive = scores.share * power * functional.softplus(-scores.positive)
        return functional.softplus(scores.drawn).sum(1).index_add(0, scores.rows, positive) / (self.num_negatives + 1)


def _probabilities(distribution: Tensor | Sequence[float] | None) -> Tensor | None:
    """Return the distribution divided by its sum, (L,), or None; raise ConfigError if it is not a distribution."""
    vector = label_vector("distribution", distribution)
    if vector is None:
        return None
    if bool((vector < 0).any()) or not bool((vector > 0).any()):
        raise ConfigError("distribution has a number below 0, or none above 0. Expected 0 or more per label, not all 0")
    return vector / vector.sum()


def _drawn_by(loss: SampledLoss, like: Tensor, num_labels: int) -> Tensor:
    """Return the labels that `loss.draw` draws, on the device of `like`; as an operator while a compiler traces."""
    called: Tensor = (_draw_op if torch.compiler.is_compiling() else _draw)(like, loss.number, num_labels)
    return called


def _draw(like: Tensor, number: int, num_labels: int) -> Tensor:
    loss: SampledLoss = LOSSES[number]
    return loss.draw(num_labels, like.device)


_draw_op = torch.library.custom_op("hyperfocal::draw", _draw, mutates_args=())  # no compiler can trace a generator


@_draw_op.register_fake
def _(like: Tensor, number: int, num_labels: int) -> Tensor:
    loss: SampledLoss = LOSSES[number]
    return like.new_empty(loss.num_negatives, dtype=torch.int64)
