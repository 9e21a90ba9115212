"""The walks whose elementwise work is done by Triton kernels, for GPUs: a chunk is read and written once.

The three matrix products of a chunk stay torch's. Between them the logits, in the dtype of the product, are
turned into slopes in place (float16 into float32, see `walk.py`), by float32 maths. Positives and masked pairs
first make way: their logits become -inf, whose term and slope are 0, and the positives' slopes are put back.
The eager twins are `chunked.separable_walk` and `softmax_chunked.softmax_walk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperfocal.losses.options import log_once
from hyperfocal.losses.torch_walks import Normaliser, Slopes, rows_and_slopes, separable_walk, softmax_walk
from hyperfocal.losses.triton import for_tiles, over_columns, over_pairs, over_tiles
from hyperfocal.losses.walk import Problem, RowsAndGradients, Walk, positive_weights

if TYPE_CHECKING:
    from hyperfocal.losses.separable import SeparableLoss
    from hyperfocal.losses.softmax import SoftmaxLoss

FLOAT64 = "float64 maths is plain torch: the Triton kernels compute in float32"


class Chunks:
    """The walk of one problem and what its kernels share.

    Args:
        problem: what is computed, in float32 maths.
        shift: (L,), added to the logits, or None.
    """

    def __init__(self, problem: Problem, *, shift: Tensor | None = None) -> None:
        self.walk = Walk(problem, shift=shift)
        self.labels, self.mask = problem.labels, problem.mask
        self.rows = self.labels.rows
        self.masked_rows = None if self.mask is None else self.mask.rows
        wider = self.walk.product != problem.dtype
        self.slopes = torch.empty_like(self.walk.buffer, dtype=self.walk.product) if wider else None

    def slopes_like(self, logits: Tensor) -> Tensor:
        """Return where the slopes of a chunk go: over its logits, unless their dtype has too small a range."""
        return logits if self.slopes is None else self.slopes[: logits.numel()].view(logits.shape)

    def hide_masked(self, logits: Tensor, first: int) -> None:
        """Put -inf at the masked pairs of the chunk that begins at label `first`."""
        if self.mask is not None:
            assert self.masked_rows is not None
            over_pairs("hide_pairs", logits, self.masked_rows, self.mask, first)

    def over_positives(self, kernel: str, chunk: Tensor, first: int, *arguments: Any, **constants: Any) -> None:
        """Run a kernel over the positives of a chunk."""
        over_pairs(kernel, chunk, self.rows, self.labels, first, *arguments, **constants)

    def add(self, part: slice, slopes: Tensor) -> None:
        """Add the gradients of some labels; the bias's is summed here, from slopes of any dtype."""
        bias = None
        if self.walk.grad_bias is not None:
            bias = slopes.new_empty(slopes.shape[1], dtype=torch.float32)
            scale = self.walk.problem.scale.contiguous()
            over_columns("column_sums", slopes, scale, bias)
        self.walk.add(part, slopes, bias=bias)


def separable_triton_walk(loss: SeparableLoss, problem: Problem) -> RowsAndGradients:
    """Return the loss of each row, (B,) and not scaled, and the scaled gradients that are needed."""
    terms = loss.native_terms
    if terms is None or problem.scale.dtype != torch.float32:
        log_once("triton float64", FLOAT64)
        return separable_walk(loss, problem)
    chunks = Chunks(problem, shift=loss.logit_shift)
    weights = positive_weights(loss.positive_weight, problem)
    rows = torch.zeros_like(problem.scale)
    values = problem.scale.new_empty(problem.labels.num_positives)
    right, how = torch.empty_like(values), {"gamma": terms.gamma}
    weighted = (values if weights is None else weights, terms.positive)
    for part in chunks.walk.parts:
        logits = chunks.walk.rounded_logits(part)
        slopes = chunks.slopes_like(logits)
        chunks.over_positives(
            "focal_pairs", logits, part.start, values, right, *weighted, weighted=weights is not None, **how
        )
        chunks.hide_masked(logits, part.start)
        sums = for_tiles(logits)
        over_tiles("focal_dense", logits, slopes, sums, logits.shape[1], terms.negative, **how)
        rows += sums.sum(1)
        chunks.over_positives("put_pairs", slopes, part.start, right)
        chunks.add(part, slopes)
    rows += torch.segment_reduce(values, "sum", lengths=problem.labels.lengths, initial=0, unsafe=True)
    return rows, chunks.walk.gradients()


def softmax_triton_walk(loss: SoftmaxLoss, problem: Problem) -> RowsAndGradients:
    """Return the loss of each row, (B,) and not scaled, and the scaled gradients that are needed."""
    if problem.scale.dtype != torch.float32:
        log_once("triton float64", FLOAT64)
        return softmax_walk(loss, problem)
    shift = None if loss.logit_shift is None else loss.temperature * loss.logit_shift
    chunks = Chunks(problem, shift=shift)
    found = _first_walk(loss, chunks)
    rows, slopes = rows_and_slopes(loss, problem, found)
    if any(problem.needs):
        _second_walk(loss, chunks, found, slopes)
    return rows, chunks.walk.gradients()


def _first_walk(loss: SoftmaxLoss, chunks: Chunks) -> Normaliser:
    scale, smoothed = chunks.walk.problem.scale, loss.label_smoothing > 0
    peak = torch.full_like(scale, torch.finfo(scale.dtype).min)
    found, total = torch.zeros_like(scale), torch.zeros_like(scale)
    right = scale.new_empty(chunks.labels.num_positives)
    for part in chunks.walk.parts:
        logits = chunks.walk.rounded_logits(part)
        chunks.over_positives("take_pairs", logits, part.start, right)
        chunks.hide_masked(logits, part.start)
        peaks, sums, totals = (for_tiles(logits) for _ in range(3))
        how = {"smoothed": smoothed, "masked": chunks.mask is not None}
        over_tiles("softmax_sums", logits, peaks, sums, totals, logits.shape[1], float(loss.temperature), **how)
        before, peak = peak, torch.maximum(peak, peaks.amax(1))
        found = found * torch.exp(before - peak) + (sums * torch.exp(peaks - peak[:, None])).sum(1)
        total = total + totals.sum(1) if smoothed else total
    return Normaliser(peak, torch.where(found == 0, 1, found), total, right / loss.temperature)


def _second_walk(loss: SoftmaxLoss, chunks: Chunks, found: Normaliser, of: Slopes) -> None:
    peak, factor, rows = of.peak.contiguous(), of.factor.contiguous(), chunks.rows
    smoothing = peak if of.smoothing is None else of.smoothing.contiguous()  # any memory, where none is read
    right = torch.exp(found.right - peak[rows]) * factor[rows] + of.right
    right = right if of.smoothing is None else right - smoothing[rows]
    right = right / loss.temperature
    how = {"smoothed": of.smoothing is not None}
    for part in chunks.walk.parts:
        logits = chunks.walk.rounded_logits(part)
        slopes = chunks.slopes_like(logits)
        chunks.over_positives("hide_pairs", logits, part.start)
        chunks.hide_masked(logits, part.start)
        numbers = (logits.shape[1], float(loss.temperature))
        over_tiles("softmax_slopes", logits, slopes, peak, factor, smoothing, *numbers, **how)
        chunks.over_positives("put_pairs", slopes, part.start, right)
        chunks.add(part, slopes)
