"""Losses that score the positives and a few drawn labels only, for catalogues where even one pass is too much.

All examples of a batch share the drawn labels: their logits are one small matrix product. A drawn label that
is a positive of an example, or masked, does not count as its negative. Plain torch and autograd; the
gradient of `weight` is dense, with zeros in the rows that were not scored.

Which labels a sampled loss draws.

Sampled softmax and generalised binary cross-entropy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperfocal.distributed import from_first
from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses.options import (
    LOSSES,
    Options,
    check_call,
    check_finite,
    check_logits,
    check_range,
    check_vector,
    label_vector,
    register,
    scale_of,
    weight_vector,
)


class SampledOptions(TypedDict, total=False):
    """The keyword options that every sampled loss takes; see SampledLoss."""

    distribution: Tensor | Sequence[float] | None
    generator: torch.Generator | None
    shared_draws: bool
    reduction: str
    positive_weight: Tensor | Sequence[float] | None
    ignore_empty: bool
    check_finite: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """The scored labels of one batch.

    Attributes:
        right: (P,) logits of the positives.
        rows: (P,) int64, the example of each positive.
        share: (P,) weight of each positive / number of positives of its example; 0 for one that is masked.
        drawn: (B, N) logits of the drawn labels, -inf where one does not count.
        ids: (N,) int64, the drawn labels.
        num_labels: L.
    """

    right: Tensor
    rows: Tensor
    share: Tensor
    drawn: Tensor
    ids: Tensor
    num_labels: int


class SampledLoss(nn.Module):
    """The base of the sampled losses: draws, scores, reduces.

    Args:
        num_negatives: N, labels drawn for a batch, with replacement; at least 1.
        distribution: (L,) not negative, in proportion to which labels are drawn; None draws all alike.
        generator: of the draws, for repeatable ones; None takes torch's own.
        shared_draws: whether several processes (`hyperfocal.distributed`) take the draws of the first, as the parts
            of one batch do.
        reduction: see LossOptions; here the sum over *examples* is divided, and the default is "batch".
        positive_weight, ignore_empty, check_finite: see LossOptions.

    Raises:
        ConfigError: a number out of range; an option that is not allowed.
    """

    positive_weight: Tensor | None
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
        super().__init__()
        if num_negatives < 1:
            raise ConfigError(f"num_negatives = {num_negatives!r} is not allowed. Expected 1 or more")
        self.options = Options(reduction=reduction, ignore_empty=ignore_empty, check_finite=check_finite)
        self.num_negatives = num_negatives
        self.generator = generator
        self.shared_draws = shared_draws
        self.register_buffer("positive_weight", weight_vector(positive_weight), persistent=False)
        self.register_buffer("probabilities", probabilities_from(distribution), persistent=False)
        self.number = register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copied or unpickled loss under a number of its own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.number = register(self)

    @property
    def reduction(self) -> str:
        """Return what the sum over examples is divided by."""
        return self.options.reduction

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        return f"num_negatives={self.num_negatives}, reduction={self.reduction!r}"

    def row_losses(self, scores: Scores) -> Tensor:
        """Return (B,), the loss of each example; 0 for one without positives."""
        raise NotImplementedError(f"{type(self).__name__} must define row_losses(scores)")

    def draw(self, num_labels: int, device: torch.device) -> Tensor:
        """Return (N,) int64, the labels drawn for one batch."""
        ids = draw(self.num_negatives, num_labels, self.probabilities, self.generator, device)
        return from_first(ids) if self.shared_draws else ids

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: SparseLabels,
        mask: SparseLabels | None = None,
    ) -> Tensor:
        """Return the loss over the positives and the drawn labels, of which alone `weight` is read.

        Arguments, result and errors are those of SeparableLoss.forward.
        """
        check_call(hidden, weight, bias, labels, mask)
        self._check_vectors(len(weight))
        if self.options.check_finite:
            check_finite(hidden=hidden, weight=weight, bias=bias)
        labels, mask = labels.to(hidden.device), None if mask is None else mask.to(hidden.device)
        ids = drawn_by(self, hidden, len(weight))
        pairs = hidden.index_select(0, labels.rows), weight.index_select(0, labels.indices)
        right = (pairs[0].float() * pairs[1] if hidden.dtype != torch.float64 else pairs[0] * pairs[1]).sum(1)
        right = right if bias is None else right + bias[labels.indices]
        drawn = functional.linear(hidden, weight.index_select(0, ids), None if bias is None else bias[ids])
        return self._reduced(right, drawn, ids, labels, mask)

    def from_logits(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None = None) -> Tensor:
        """Return the same from (B, L) logits."""
        check_logits(logits, labels, mask)
        self._check_vectors(labels.num_labels)
        if self.options.check_finite:
            check_finite(logits=logits)
        labels, mask = labels.to(logits.device), None if mask is None else mask.to(logits.device)
        ids = drawn_by(self, logits, labels.num_labels)
        return self._reduced(logits[labels.rows, labels.indices], logits[:, ids], ids, labels, mask)

    def _check_vectors(self, num_labels: int) -> None:
        check_vector("positive_weight", self.positive_weight, num_labels)
        check_vector("distribution", self.probabilities, num_labels)

    def _reduced(
        self, right: Tensor, drawn: Tensor, ids: Tensor, labels: SparseLabels, mask: SparseLabels | None
    ) -> Tensor:
        exact = torch.promote_types(drawn.dtype, torch.float32)
        right, drawn = right.to(exact), drawn.to(exact)
        kept, hits = torch.ones_like(right), labels.holds(ids)
        terms = torch.full_like(labels.lengths, labels.num_labels)
        if mask is not None:
            kept, hits, terms = (~labels.among(mask)).to(exact), hits | mask.holds(ids), terms - mask.lengths
            right = right.masked_fill(kept == 0, 0)
        positives = kept.new_zeros(len(labels)).index_add(0, labels.rows, kept)
        share = kept / positives.clamp(min=1)[labels.rows]
        if self.positive_weight is not None:
            share = share * self.positive_weight.to(share)[labels.indices]
        drawn = drawn.masked_fill(hits | (positives == 0)[:, None], -torch.inf)
        scores = {"right": right, "rows": labels.rows, "share": share, "drawn": drawn, "ids": ids}
        rows = self.row_losses(Scores(**scores, num_labels=labels.num_labels))
        rows = rows * scale_of(positives, terms, self.options, exact)
        return rows if self.reduction == "none" else rows.sum()


def draw(
    count: int,
    num_labels: int,
    probabilities: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Return (count,) int64 labels on a device, drawn with replacement.

    Args:
        count: how many.
        num_labels: L.
        probabilities: (L,), or None for all labels alike.
        generator: None takes torch's own of the device.
        device: of the result.
    """
    where = device if generator is None else generator.device
    if probabilities is None:
        return torch.randint(num_labels, (count,), generator=generator, device=where).to(device)
    edges = probabilities.to(where).double().cumsum(0)
    points = edges[-1] * torch.rand(count, generator=generator, device=where, dtype=torch.float64)
    return torch.searchsorted(edges, points, right=True).clamp(max=num_labels - 1).to(device)


def probabilities_from(distribution: Tensor | Sequence[float] | None) -> Tensor | None:
    """Return numbers that are in proportion to the distribution and sum to 1, (L,), or None.

    Raises:
        ConfigError: another shape; numbers below 0, not finite, or all 0.
    """
    vector = label_vector("distribution", distribution)
    if vector is None:
        return None
    if bool((vector < 0).any()) or not bool((vector > 0).any()):
        raise ConfigError("distribution: no label may have less than 0, and one must have more")
    return vector / vector.sum()


def drawn_by(loss: Any, like: Tensor, num_labels: int) -> Tensor:
    """Return what `loss.draw` gives, on the device of `like`; as an operator while a compiler traces."""
    called: Tensor = (_draw_op if torch.compiler.is_compiling() else _draw)(like, loss.number, num_labels)
    return called


def _draw(like: Tensor, number: int, num_labels: int) -> Tensor:
    loss: Any = LOSSES[number]
    drawn: Tensor = loss.draw(num_labels, like.device)
    return drawn


_draw_op = torch.library.custom_op("hyperfocal::draw", _draw, mutates_args=())  # no compiler can trace a generator


@_draw_op.register_fake
def _(like: Tensor, number: int, num_labels: int) -> Tensor:
    loss: Any = LOSSES[number]
    return like.new_empty(loss.num_negatives, dtype=torch.int64)


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
