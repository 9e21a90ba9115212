"""The way over the label chunks of one call: gives a chunk's logits, takes its slopes, adds up the gradients.

For each chunk of C labels, z = hidden @ weight[chunk].T + bias[chunk] is (B, C) and stays in cache. Of its
slopes, slope @ weight[chunk] is added to the gradient of hidden, and slope.T @ hidden *is* the gradient of
the chunk's weight: three matrix products, as an unfused layer needs, and O(B x C) extra memory.

Half precision: logits are a product in bfloat16 or float16; all elementwise maths and all sums are
float32. The gradients' products are bfloat16 too, but float32 in place of float16, whose range ends at
65504 and whose smallest numbers are larger than the slope of an easy negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.options import Options, log_once

CHUNK_NUMBERS_CPU = 3 * 2**17  # logits a chunk: 1.5 MiB of float32, about the second-level caches of two cores
CHUNK_NUMBERS_GPU = 2**26  # 256 MiB: large enough that kernel launches do not show

Places = tuple[Tensor, Tensor]  # rows and columns


@dataclass(frozen=True, eq=False)
class Problem:
    """One call of a fused loss.

    Attributes:
        hidden, weight, bias: (B, D), (L, D) and (L,) or None, in their own dtypes.
        labels: the positives that count.
        mask: the pairs that do not count, or None.
        scale: (B,) float32 or float64, what the loss of each row is multiplied with.
        dtype: of the matrix products.
        needs: whether hidden, weight and bias need a gradient.
        options: of the loss.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: SparseLabels
    mask: SparseLabels | None
    scale: Tensor
    dtype: torch.dtype
    needs: Sequence[bool]
    options: Options


RowsAndGradients = tuple[Tensor, list[Tensor | None]]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some labels, and what is known of them before their logits."""

    labels: slice
    right: Places  # row and column, in the chunk, of each positive
    order: Tensor  # place of each of them among all positives, row by row
    masked: Places | None


class Walk:
    """The chunks of one problem, their logits, and the gradients so far.

    Args:
        problem: what is computed.
        shift: (L,), added to the logits, or None.
    """

    def __init__(self, problem: Problem, *, shift: Tensor | None = None) -> None:
        hidden, weight, bias, scale = problem.hidden, problem.weight, problem.bias, problem.scale
        self.problem = problem
        size = problem.options.chunk_labels or chunk_size(len(hidden), len(weight), hidden.device)
        size = min(size, max(len(weight), 1))
        log_once(f"chunk {hidden.device.type}", f"a chunk holds {size:,} labels ({len(hidden):,} rows a batch)")
        self.size = size
        self.parts = [slice(start, min(start + size, len(weight))) for start in range(0, len(weight), size)]
        self.exact = scale.dtype  # of all that is no matrix product
        self.product = self.exact if problem.dtype == torch.float16 else problem.dtype
        self.hidden = hidden.to(problem.dtype)
        self.scaled_hidden = (hidden.to(self.exact) * scale[:, None]).to(self.product)
        self.offset = _offset(bias, shift, problem)
        self.buffer = self.hidden.new_empty(len(hidden) * size)  # one for all: fresh memory costs more than its use
        self.grad_hidden = torch.zeros_like(hidden, dtype=self.exact) if problem.needs[0] else None
        self.grad_weight = torch.empty_like(weight) if problem.needs[1] else None
        self.grad_bias = torch.empty_like(bias) if problem.needs[2] and bias is not None else None

    @cached_property
    def chunks(self) -> list[Chunk]:
        """Return the parts with their positives and masked pairs."""
        right = _by_chunk(self.problem.labels, self.size)
        masked = [(None, None)] * len(right) if self.problem.mask is None else _by_chunk(self.problem.mask, self.size)
        found = zip(self.parts, right, masked, strict=True)
        return [Chunk(part, places, order, ignored) for part, (places, order), (ignored, _) in found]

    def products(self, part: slice) -> Tensor:
        """Return hidden @ weight.T of some labels, (B, C) float32 or float64, in memory that the next part reuses."""
        weight = self.problem.weight[part].to(self.problem.dtype)
        return torch.mm(self.hidden, weight.T, out=self._place(part)).to(self.exact)

    def logits(self, part: slice) -> Tensor:
        """Return hidden @ weight.T + bias + shift, as `products`; they may be written to."""
        return self.rounded_logits(part).to(self.exact)

    def rounded_logits(self, part: slice) -> Tensor:
        """Return the same in the dtype of the product that gave them, and always in the memory that is reused."""
        weight = self.problem.weight[part].to(self.problem.dtype)
        if self.offset is None:
            return torch.mm(self.hidden, weight.T, out=self._place(part))
        offset = self.offset[part].to(self.problem.dtype)
        return torch.addmm(offset, self.hidden, weight.T, out=self._place(part))

    def _place(self, part: slice) -> Tensor:
        shape = (len(self.hidden), part.stop - part.start)
        return self.buffer[: shape[0] * shape[1]].view(shape)

    def add(self, part: slice, slope: Tensor, *, bias: Tensor | None = None) -> None:
        """Add the gradients of some labels.

        Args:
            part: the C labels.
            slope: (B, C), d loss / d logit at each of their logits.
            bias: (C,), the gradient of the bias where it is known: scale @ slope, which is computed otherwise.
        """
        if self.grad_bias is not None:
            self.grad_bias[part] = self.problem.scale @ slope if bias is None else bias
        slope = slope.to(self.product)
        if self.grad_hidden is not None:
            _add_product(self.grad_hidden, slope, self.problem.weight[part].to(self.product))
        if self.grad_weight is not None:
            _put_product(self.grad_weight[part], slope.T, self.scaled_hidden)

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients of hidden (not yet in its own dtype), weight and bias."""
        if self.grad_hidden is not None:
            self.grad_hidden.mul_(self.problem.scale[:, None])
        return [self.grad_hidden, self.grad_weight, self.grad_bias]


def chunk_size(batch: int, num_labels: int, device: torch.device) -> int:
    """Return how many labels one chunk holds: equal chunks, each of which stays in cache.

    A multiple of 16, one row of vector registers, but not of 256: rows that begin a power of two apart push
    one another out of the cache, and the products take up to half as long again.
    """
    numbers = CHUNK_NUMBERS_CPU if device.type == "cpu" else CHUNK_NUMBERS_GPU
    most = max(numbers // max(batch, 1), 64)
    chunks = max(-(-num_labels // most), 1)
    size = 16 * -(-num_labels // (16 * chunks))
    return max(size + 16 if size % 256 == 0 else size, 16)


def positive_weights(weight: Tensor | None, problem: Problem) -> Tensor | None:
    """Return the weight of each positive, (P,), from a weight for each label, (L,)."""
    return None if weight is None else weight.to(problem.scale)[problem.labels.indices]


def _by_chunk(labels: SparseLabels, size: int) -> list[tuple[Places, Tensor]]:
    """Return for each chunk row and column of its pairs, and their places in `labels`."""
    columns, order = labels.indices.sort()
    rows = labels.rows[order]
    edges = torch.arange(0, labels.num_labels + size, size, device=columns.device)
    bounds = torch.searchsorted(columns, edges).tolist()
    parts = [slice(*pair) for pair in pairwise(bounds)]
    return [((rows[part], columns[part] - number * size), order[part]) for number, part in enumerate(parts)]


def _offset(bias: Tensor | None, shift: Tensor | None, problem: Problem) -> Tensor | None:
    """Return what is added to the logits of each label, in float32 or float64."""
    if shift is None:
        return None if bias is None else bias.to(problem.scale)
    shift = shift.to(problem.scale)
    return shift if bias is None else bias + shift


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to total, without a temporary where the dtypes allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _put_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Write left @ right to target, without a temporary where the dtypes allow it."""
    if target.dtype == left.dtype:
        torch.mm(left, right, out=target)
    else:
        target.copy_(left @ right)
