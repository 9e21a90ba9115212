"""The walks whose elementwise work is done by Triton kernels, for GPUs: a chunk is read and written once.

The three matrix products of a chunk stay torch's. Between them float32 kernels replace the logits, in the dtype of
the product, by slopes in place (float16 by float32, see `walk.py`). First the logits of positives and masked pairs
are set to -inf, whose term and slope are 0; afterwards the slopes of the positives are written back.
The eager twins are `torch_walks.separable_walk` and `torch_walks.softmax_walk`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfocal.losses.terms import SeparableTerms, SoftmaxTerms
from hyperfocal.losses.torch_walks import Normaliser, Slopes, rows_and_slopes, separable_walk, softmax_walk
from hyperfocal.losses.triton import for_tiles, over_columns, over_pairs, over_tiles
from hyperfocal.losses.walk import Problem, RowsAndGradients, Walk, log_once, positive_weights

FLOAT64 = "float64 maths is plain torch: the Triton kernels compute in float32"


def separable_triton_walk(terms: SeparableTerms, problem: Problem) -> RowsAndGradients:
    """Return the unscaled loss of each row, (B,), and the scaled gradients that are needed."""
    focal = terms.focal
    if focal is None or problem.scale.dtype != torch.float32:
        log_once("triton float64", FLOAT64)
        return separable_walk(terms, problem)
    chunks = Chunks(problem, shift=terms.shift)
    weights = positive_weights(terms.positive_weight, problem)
    rows = torch.zeros_like(problem.scale)
    values = problem.scale.new_empty(problem.labels.num_positives)
    positives, gamma = torch.empty_like(values), {"gamma": focal.gamma}
    weighted = (values if weights is None else weights, focal.positive)
    for span in chunks.walk.spans:
        logits = chunks.walk.rounded_logits(span)
        slopes = chunks.slopes_like(logits)
        chunks.over_positives(
            "focal_pairs", logits, span.start, values, positives, *weighted, weighted=weights is not None, **gamma
        )
        chunks.hide_masked(logits, span.start)
        sums = for_tiles(logits)
        over_tiles("focal_dense", logits, slopes, sums, logits.shape[1], focal.negative, **gamma)
        rows += sums.sum(1)
        chunks.over_positives("put_pairs", slopes, span.start, positives)
        chunks.add(span, slopes)
    rows += torch.segment_reduce(values, "sum", lengths=problem.labels.lengths, initial=0, unsafe=True)
    return rows, chunks.walk.gradients()


def softmax_triton_walk(terms: SoftmaxTerms, problem: Problem) -> RowsAndGradients:
    """Return the unscaled loss of each row, (B,), and the scaled gradients that are needed."""
    if problem.scale.dtype != torch.float32:
        log_once("triton float64", FLOAT64)
        return softmax_walk(terms, problem)
    chunks = Chunks(problem, shift=terms.shift)
    normaliser = _first_walk(terms, chunks)
    rows, slopes = rows_and_slopes(terms, problem, normaliser)
    if any(problem.needs):
        _second_walk(terms, chunks, normaliser, slopes)
    return rows, chunks.walk.gradients()


def _first_walk(terms: SoftmaxTerms, chunks: Chunks) -> Normaliser:
    scale, smoothed = chunks.walk.problem.scale, terms.label_smoothing > 0
    peak = torch.full_like(scale, torch.finfo(scale.dtype).min)
    sums, total = torch.zeros_like(scale), torch.zeros_like(scale)
    positives = scale.new_empty(chunks.labels.num_positives)
    for span in chunks.walk.spans:
        logits = chunks.walk.rounded_logits(span)
        chunks.over_positives("take_pairs", logits, span.start, positives)
        chunks.hide_masked(logits, span.start)
        peaks, tile_sums, totals = (for_tiles(logits) for _ in range(3))
        how = {"smoothed": smoothed, "masked": chunks.mask is not None}
        over_tiles("softmax_sums", logits, peaks, tile_sums, totals, logits.shape[1], float(terms.temperature), **how)
        before, peak = peak, torch.maximum(peak, peaks.amax(1))
        sums = sums * torch.exp(before - peak) + (tile_sums * torch.exp(peaks - peak[:, None])).sum(1)
        total = total + totals.sum(1) if smoothed else total
    return Normaliser(peak, torch.where(sums == 0, 1, sums), total, positives / terms.temperature)


def _second_walk(terms: SoftmaxTerms, chunks: Chunks, normaliser: Normaliser, slopes: Slopes) -> None:
    peak, factor, rows = slopes.peak.contiguous(), slopes.factor.contiguous(), chunks.rows
    smoothed = slopes.smoothing is not None
    smoothing = peak if slopes.smoothing is None else slopes.smoothing.contiguous()  # without it any memory: not read
    positives = torch.exp(normaliser.positives - peak[rows]) * factor[rows] + slopes.positives
    positives = positives - smoothing[rows] if smoothed else positives
    positives = positives / terms.temperature
    for span in chunks.walk.spans:
        logits = chunks.walk.rounded_logits(span)
        memory = chunks.slopes_like(logits)
        chunks.over_positives("hide_pairs", logits, span.start)
        chunks.hide_masked(logits, span.start)
        numbers = (logits.shape[1], float(terms.temperature))
        over_tiles("softmax_slopes", logits, memory, peak, factor, smoothing, *numbers, smoothed=smoothed)
        chunks.over_positives("put_pairs", memory, span.start, positives)
        chunks.add(span, memory)


class Chunks:
    """The walk of one problem in float32 maths, with the numbers that its kernels share."""

    def __init__(self, problem: Problem, *, shift: Tensor | None = None) -> None:
        self.walk = Walk(problem, shift=shift)
        self.labels, self.mask = problem.labels, problem.mask
        self.rows = self.labels.rows
        self.masked_rows = None if self.mask is None else self.mask.rows
        wider = self.walk.product != problem.dtype
        self.slopes = torch.empty_like(self.walk.buffer, dtype=self.walk.product) if wider else None

    def slopes_like(self, logits: Tensor) -> Tensor:
        """Return the memory for the slopes of a chunk: its logits, unless the range of their dtype is too small."""
        return logits if self.slopes is None else self.slopes[: logits.numel()].view(logits.shape)

    def hide_masked(self, logits: Tensor, first: int) -> None:
        """Write -inf to the masked pairs of the chunk that begins at label `first`."""
        if self.mask is not None:
            assert self.masked_rows is not None
            over_pairs("hide_pairs", logits, self.masked_rows, self.mask, first)

    def over_positives(self, kernel: str, chunk: Tensor, first: int, *arguments: Any, **constants: Any) -> None:
        """Run a kernel over the positives of a chunk."""
        over_pairs(kernel, chunk, self.rows, self.labels, first, *arguments, **constants)

    def add(self, span: slice, slopes: Tensor) -> None:
        """Add the gradients of C labels; the bias's is summed here, from slopes of any dtype."""
        bias = None
        if self.walk.grad_bias is not None:
            bias = slopes.new_empty(slopes.shape[1], dtype=torch.float32)
            scale = self.walk.problem.scale.contiguous()
            over_columns("column_sums", slopes, scale, bias)
        self.walk.add(span, slopes, bias=bias)
