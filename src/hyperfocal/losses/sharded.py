"""A loss over labels that are partitioned over several processes, each of which holds some rows of the last layer.

Every process has the same (B, D) hidden vectors and the same labels of the batch, and walks over its own rows of
weight and bias. The processes exchange the value of a separable loss; of a softmax loss the largest logit and the sum
of each example, (B,), and the logits of the positives, (P,); and of both the gradient of hidden, (B, D). The gradients
of weight and bias stay in their process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hyperfocal.distributed import all_reduce, rank, world_size
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels, has_data, row_pointers
from hyperfocal.losses.functorch import is_transformed
from hyperfocal.losses.fused import scaled
from hyperfocal.losses.options import check_finite, check_float, check_labels
from hyperfocal.losses.separable import SeparableLoss
from hyperfocal.losses.softmax import SoftmaxLoss
from hyperfocal.losses.torch_walks import Normaliser, first_walk, rows_and_slopes, second_walk
from hyperfocal.losses.walk import Problem, RowsAndGradients, Walk
from hyperfocal.losses.walk_operator import problem_of, product_dtype


def shard_of(num_labels: int) -> slice:
    """Return the labels of this process: n processes hold about L / n each, in the order of their ranks.

    >>> shard_of(5)
    slice(0, 5, None)
    """
    return slice(num_labels * rank() // world_size(), num_labels * (rank() + 1) // world_size())


class ShardedLoss(nn.Module):
    """Any separable or softmax loss, over labels that are partitioned over the processes of `hyperfocal.distributed`.

    The value is that of the loss over all labels, the same in every process. Each process gets the gradients of its
    rows of weight and bias, and the complete gradient of hidden.

    Args:
        loss: its positive_weight, log_prior and counts are of all labels. The backend of a SoftmaxLoss is always
            "chunked".
        num_labels: L, of all processes.

    Attributes:
        part: the labels of this process, `shard_of(num_labels)`.

    Raises:
        ConfigError: a loss that is neither a SeparableLoss nor a SoftmaxLoss; reduction "none"; backend "reference";
            for a SoftmaxLoss, backend "native" or "triton".

    >>> ShardedLoss(SoftmaxLoss(), 7).part
    slice(0, 7, None)
    """

    def __init__(self, loss: SeparableLoss | SoftmaxLoss, num_labels: int) -> None:
        super().__init__()
        if not isinstance(loss, SeparableLoss | SoftmaxLoss):
            raise ConfigError(
                f"{type(loss).__name__} cannot be sharded. Expected a separable loss, as FocalLoss, or SoftmaxLoss; "
                "a loss that draws labels reads few rows and needs no shards"
            )
        if loss.reduction == "none":
            raise ConfigError(
                "reduction = 'none' is not allowed in a ShardedLoss. Expected positives, batch, mean or sum"
            )
        allowed = ("auto", "chunked") if isinstance(loss, SoftmaxLoss) else ("auto", "chunked", "native", "triton")
        if loss.options.backend not in allowed:
            raise ConfigError(
                f"backend = {loss.options.backend!r} is not allowed in a ShardedLoss of a {type(loss).__name__}. "
                f"Expected one of {', '.join(allowed)}"
            )
        self.loss, self.num_labels, self.part = loss, num_labels, shard_of(num_labels)

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: SparseLabels,
        mask: SparseLabels | None = None,
    ) -> Tensor:
        """Return the loss of `hidden @ W.T + b` over all L labels; every process has to call it.

        Args:
            hidden: (B, D) float, the same in every process; `gather_rows` collects it from all encoders.
            weight: (L_r, D) float, the rows of W for the labels of `part`.
            bias: (L_r,) float or None, the numbers of b for the labels of `part`.
            labels: B rows over all L labels, the same in every process.
            mask: B rows over all L labels, or None, as in FusedLoss.forward.

        Raises:
            DataError: shapes that do not match, or numbers that are not floats; tensors without data, as on device
                "meta"; with check_finite, NaN or infinity.
            ConfigError: a transform of torch.func, or forward-mode AD, is active; a parameter or buffer of the loss
                itself requires a gradient.
            RuntimeError: in `backward`, a second one, or a second derivative.
            TrainingError: another process has ended.
        """
        self._check(hidden, weight, bias, labels, mask)
        grad = torch.is_grad_enabled()
        needs = [grad and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
        value: Tensor = _Sharded.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, self.loss, self.part, labels, mask, needs
        )
        return value

    def _check(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels, mask: SparseLabels | None
    ) -> None:
        size = self.part.stop - self.part.start
        if is_transformed(hidden, weight, bias):
            raise ConfigError(
                "a ShardedLoss allows neither torch.func nor forward-mode AD. Use the loss itself, over all labels"
            )
        for name, tensor in {"hidden": hidden, "weight": weight, "bias": bias}.items():
            if tensor is not None:
                check_float(name, tensor)
                if not has_data(tensor):
                    raise DataError(f"{name} is on {tensor.device}, without data. A ShardedLoss needs numbers")
        if hidden.ndim != 2 or weight.shape != (size, hidden.shape[1]):
            raise DataError(
                f"process {rank()} of {world_size()}: expected hidden (B, D) and weight ({size}, D), the rows of "
                f"labels {self.part.start} to {self.part.stop - 1}, got {tuple(hidden.shape)} and {tuple(weight.shape)}"
            )
        if bias is not None and bias.shape != (size,):
            raise DataError(f"expected bias ({size},), got {tuple(bias.shape)}")
        source = f"hidden has {len(hidden)} rows and num_labels = {self.num_labels}"
        check_labels(labels, mask, hidden, self.num_labels, source)
        self.loss.check_vectors(self.num_labels)
        self.loss.check_parameters()
        if self.loss.options.check_finite:
            check_finite(hidden=hidden, weight=weight, bias=bias)


class _Sharded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> Tensor:
        loss, part, labels, mask, needs = others
        tensors, dtype = (hidden, weight, bias), product_dtype(hidden, weight)
        with torch.autocast(hidden.device.type, enabled=False):
            whole = problem_of(loss.options, tensors, labels, mask, dtype, needs)
            walk = _softmax_walk if isinstance(loss, SoftmaxLoss) else _separable_walk
            rows, gradients = walk(loss, whole, part)
            if gradients[0] is not None:
                all_reduce(gradients[0])
            value = (rows * whole.scale).sum()
        ctx.gradients = [
            None if gradient is None or like is None else gradient.to(like.dtype)
            for gradient, like in zip(gradients, tensors, strict=True)
        ]
        ctx.save_for_backward(*tensors)  # only for the refusal of a second derivative
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "a ShardedLoss allows one backward pass: it returned its gradients without a copy. Call the loss again"
            )
        returned = [None if gradient is None else scaled(gradient, grad) for gradient in gradients]
        if torch.is_grad_enabled():  # create_graph=True
            returned = _FirstDerivative.apply(grad, *ctx.saved_tensors, *returned)  # type: ignore[no-untyped-call]
        return (*returned, None, None, None, None, None)


class _FirstDerivative(torch.autograd.Function):
    """The gradients of hidden, weight and bias, with an error instead of their derivatives.

    `once_differentiable` would drop them in silence if the incoming gradient needs no gradient.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if each is None else each.view_as(each) for each in tensors[4:])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            "a ShardedLoss has no second derivative, which `create_graph=True` asks for. Use the loss itself, over "
            "all labels in one process"
        )


def _separable_walk(loss: SeparableLoss, whole: Problem, part: slice) -> RowsAndGradients:
    walk = loss.walks[loss.choose_backend(whole.hidden.device)]
    rows, gradients = walk(loss.terms(whole.labels).of(part), _local(whole, part)[0])
    return all_reduce(rows), gradients


def _softmax_walk(loss: SoftmaxLoss, whole: Problem, part: slice) -> RowsAndGradients:
    terms, (local, held) = loss.terms(whole.labels), _local(whole, part)
    own = terms.of(part)
    walk = Walk(local, shift=own.shift)
    rows, slopes = rows_and_slopes(terms, whole, _merged(first_walk(own, walk), held))
    second_walk(own, walk, replace(slopes, positives=slopes.positives[held]))
    return rows, walk.gradients()


def _merged(own: Normaliser, held: Tensor) -> Normaliser:
    """Return the normaliser over the labels of all processes, with the logits of all positives.

    `own` is that of this process's labels, which are those of the positives that (P,) `held` selects.
    """
    peak = all_reduce(own.peak.clone(), largest=True)
    positives = own.positives.new_zeros(len(held))
    positives[held] = own.positives
    numbers = all_reduce(torch.cat([own.sum * torch.exp(own.peak - peak), own.total, positives]))
    sums, total, positives = numbers.split([len(peak), len(peak), len(held)])
    return Normaliser(peak, sums, total, positives)


def _local(whole: Problem, part: slice) -> tuple[Problem, Tensor]:
    """Return the problem of a slice of the labels, and whether each of all positives is among them, (P,) bool."""
    labels, held = _cut(whole.labels, part)
    mask = None if whole.mask is None else _cut(whole.mask, part)[0]
    return replace(whole, labels=labels, mask=mask), held


def _cut(labels: SparseLabels, part: slice) -> tuple[SparseLabels, Tensor]:
    """Return the pairs of a slice of the labels, numbered from its first, and whether each pair is one, (P,) bool."""
    held = (labels.indices >= part.start) & (labels.indices < part.stop)
    indptr = row_pointers(held)[labels.indptr]
    return SparseLabels(indptr, labels.indices[held] - part.start, part.stop - part.start), held
