"""The walk over the label chunks of one call: computes each chunk's logits, takes its slopes and sums the gradients.

For each chunk of C labels, z = hidden @ weight[chunk].T + bias[chunk] is (B, C) and stays in cache. Of its
slopes, slope @ weight[chunk] is added to the gradient of hidden, and slope.T @ hidden *is* the gradient of
the chunk's weight: three matrix products, as an unfused layer needs, and O(B x C) extra memory.

Half precision: the logits are a product in bfloat16 or float16; all elementwise maths and all sums are
float32. The products of the gradients are bfloat16 too, but float32 instead of float16, whose range ends at
65504 and whose smallest numbers are larger than the slope of an easy negative.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels

CHUNK_NUMBERS_CPU = 3 * 2**17  # logits per chunk: 1.5 MiB of float32, about the second-level caches of two cores
CHUNK_NUMBERS_GPU = 2**26  # 256 MiB: large enough to hide the cost of kernel launches

Places = tuple[Tensor, Tensor]  # rows and columns
RowsAndGradients = tuple[Tensor, list[Tensor | None]]  # loss of each row; gradients of hidden, weight and bias

logger = logging.getLogger("hyperfocal")
_logged: set[str] = set()


def log_once(topic: str, message: str) -> None:
    """Log the first message of each topic in this process."""
    if topic not in _logged:
        _logged.add(topic)
        logger.info("losses: %s", message)


@dataclass(frozen=True, eq=False)
class Problem:
    """One call of a fused loss."""

    hidden: Tensor  # (B, D), in its own dtype, as weight and bias
    weight: Tensor  # (L, D)
    bias: Tensor | None  # (L,)
    labels: SparseLabels  # the positives, without masked ones
    mask: SparseLabels | None  # the pairs that do not count, or None
    scale: Tensor  # (B,) float32 or float64, the factor of each row's loss
    dtype: torch.dtype  # of the matrix products
    needs: Sequence[bool]  # whether hidden, weight and bias need a gradient
    chunk_labels: int | None  # labels per chunk, or None for `chunk_size`


class Tangents(NamedTuple):
    """A direction in which hidden, weight and bias change; None for one that does not."""

    hidden: Tensor | None  # (B, D)
    weight: Tensor | None  # (L, D)
    bias: Tensor | None  # (L,)


@dataclass(frozen=True, eq=False)
class Chunk:
    """A range of labels with its positives and masked pairs."""

    span: slice  # of the labels
    positives: Places  # row and column, in the chunk, of each positive
    order: Tensor  # index of each of these positives among all positives, row by row
    masked: Places | None


class Walk:
    """The chunks of one problem, their logits plus a shift, (L,) or None, and the gradients summed so far."""

    def __init__(self, problem: Problem, *, shift: Tensor | None = None) -> None:
        hidden, weight, bias, scale = problem.hidden, problem.weight, problem.bias, problem.scale
        self.problem = problem
        size = problem.chunk_labels or chunk_size(len(hidden), len(weight), hidden.device)
        size = min(size, max(len(weight), 1))
        log_once(f"chunk {hidden.device.type}", f"a chunk holds {size:,} labels ({len(hidden):,} rows per batch)")
        self.size = size
        self.spans = [slice(start, min(start + size, len(weight))) for start in range(0, len(weight), size)]
        self.exact = scale.dtype  # of everything except matrix products
        self.product = self.exact if problem.dtype == torch.float16 else problem.dtype
        self.hidden = hidden.to(problem.dtype)
        self.scaled_hidden = (hidden.to(self.exact) * scale[:, None]).to(self.product)
        self.offset = _offset(bias, shift, problem)
        self.buffer = self.hidden.new_empty(len(hidden) * size)  # reused: fresh memory costs more than the maths
        self.grad_hidden = torch.zeros_like(hidden, dtype=self.exact) if problem.needs[0] else None
        self.grad_weight = torch.empty_like(weight) if problem.needs[1] else None
        self.grad_bias = torch.empty_like(bias) if problem.needs[2] and bias is not None else None

    @cached_property
    def chunks(self) -> list[Chunk]:
        """Return the spans with their positives and masked pairs."""
        positives = _by_chunk(self.problem.labels, self.size)
        mask = self.problem.mask
        masked = [(None, None)] * len(positives) if mask is None else _by_chunk(mask, self.size)
        chunks = zip(self.spans, positives, masked, strict=True)
        return [Chunk(span, places, order, ignored) for span, (places, order), (ignored, _) in chunks]

    def products(self, span: slice) -> Tensor:
        """Return hidden @ weight.T of C labels, (B, C) float32 or float64, in memory that the next span reuses."""
        weight = self.problem.weight[span].to(self.problem.dtype)
        return torch.mm(self.hidden, weight.T, out=self._memory(span)).to(self.exact)

    def logits(self, span: slice) -> Tensor:
        """Return hidden @ weight.T + bias + shift of C labels, in the dtype and memory of `products`."""
        return self.rounded_logits(span).to(self.exact)

    def rounded_logits(self, span: slice) -> Tensor:
        """Return hidden @ weight.T + bias + shift in the dtype of the matrix product, always in the reused memory."""
        weight = self.problem.weight[span].to(self.problem.dtype)
        if self.offset is None:
            return torch.mm(self.hidden, weight.T, out=self._memory(span))
        offset = self.offset[span].to(self.problem.dtype)
        return torch.addmm(offset, self.hidden, weight.T, out=self._memory(span))

    def _memory(self, span: slice) -> Tensor:
        shape = (len(self.hidden), span.stop - span.start)
        return self.buffer[: shape[0] * shape[1]].view(shape)

    def add(self, span: slice, slope: Tensor, *, bias: Tensor | None = None) -> None:
        """Add the gradients of the C labels of a span from their (B, C) slopes, d loss / d logit.

        `bias` (C,) is the gradient of the bias, scale @ slope; None computes it.
        """
        if self.grad_bias is not None:
            self.grad_bias[span] = self.problem.scale @ slope if bias is None else bias
        slope = slope.to(self.product)
        if self.grad_hidden is not None:
            _add_product(self.grad_hidden, slope, self.problem.weight[span].to(self.product))
        if self.grad_weight is not None:
            _put_product(self.grad_weight[span], slope.T, self.scaled_hidden)

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients of hidden (not yet in its own dtype), weight and bias."""
        if self.grad_hidden is not None:
            self.grad_hidden.mul_(self.problem.scale[:, None])
        return [self.grad_hidden, self.grad_weight, self.grad_bias]


def chunk_size(batch: int, num_labels: int, device: torch.device) -> int:
    """Return the number of labels per chunk: equal chunks, each of which stays in cache.

    A multiple of 16, one row of vector registers, but not of 256: rows that begin a power of two apart evict
    one another from the cache, and the products take up to half as long again.
    """
    numbers = CHUNK_NUMBERS_CPU if device.type == "cpu" else CHUNK_NUMBERS_GPU
    most = max(numbers // max(batch, 1), 64)
    chunks = max(-(-num_labels // most), 1)
    size = 16 * -(-num_labels // (16 * chunks))
    return max(size + 16 if size % 256 == 0 else size, 16)


def positive_weights(weight: Tensor | None, problem: Problem) -> Tensor | None:
    """Return the weight of each positive, (P,), from a weight per label, (L,)."""
    return None if weight is None else weight.to(problem.scale)[problem.labels.indices]


def _by_chunk(labels: SparseLabels, size: int) -> list[tuple[Places, Tensor]]:
    """Return for each chunk the row and column of its pairs, and their indices in `labels`."""
    columns, order = labels.indices.sort()
    rows = labels.rows[order]
    edges = torch.arange(0, labels.num_labels + size, size, device=columns.device)
    bounds = torch.searchsorted(columns, edges).tolist()
    pairs = [slice(*ends) for ends in pairwise(bounds)]
    return [((rows[own], columns[own] - number * size), order[own]) for number, own in enumerate(pairs)]


def _offset(bias: Tensor | None, shift: Tensor | None, problem: Problem) -> Tensor | None:
    """Return bias + shift, (L,) float32 or float64, or None."""
    if shift is None:
        return None if bias is None else bias.to(problem.scale)
    shift = shift.to(problem.scale)
    return shift if bias is None else bias + shift


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to total, without a temporary if the dtypes allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _put_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Write left @ right to target, without a temporary if the dtypes allow it."""
    if target.dtype == left.dtype:
        torch.mm(left, right, out=target)
    else:
        target.copy_(left @ right)
