"""What every loss has in common: its options, their checks, and the number by which a compiled graph finds it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypedDict
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from hyperfocal.errors import ConfigError, did_you_mean

REDUCTIONS = ("positives", "batch", "mean", "sum", "none")
BACKENDS = ("auto", "reference", "chunked", "native", "triton")


class LossOptions(TypedDict, total=False):
    """The keyword options that every fused loss takes.

    Keys:
        reduction: what the sum over examples and labels is divided by: "positives", the number of positives
            in the batch (at least 1), as in the focal loss paper; "batch", the number of examples; "mean",
            the number of (example, label) pairs; "sum", 1. Or "none": (B,), the sum over the labels of each
            example. Only what counts is counted: no masked pair, and with `ignore_empty` no empty row.
        positive_weight: (L,) above 0, multiplies the positive term of each label; see `capped_weights`.
        ignore_empty: whether rows without a positive are left out of value, gradient and divisor.
        backend: "reference" (dense, holds B x L logits); "chunked" (plain torch, any loss and device); "native"
            (chunked, its elementwise work one compiled pass: BCELoss and FocalLoss, float32 maths on CPU, needs a
            C compiler); "triton" (the same for GPUs, and SoftmaxLoss too: needs `pip install triton`); "auto",
            the best that is here.
        chunk_labels: how many labels a chunk holds; None derives it from batch and device.
        check_finite: whether NaN and infinity in hidden, weight and bias are an error. Costs a pass over them.
    """

    reduction: str
    positive_weight: Tensor | Sequence[float] | None
    ignore_empty: bool
    backend: str
    chunk_labels: int | None
    check_finite: bool


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of LossOptions but the weights, checked.

    Raises:
        ConfigError: unknown reduction or backend; chunk_labels below 1.
    """

    reduction: str
    ignore_empty: bool = False
    backend: str = "auto"
    chunk_labels: int | None = None
    check_finite: bool = False

    def __post_init__(self) -> None:
        """Check every option."""
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_choice("backend", self.backend, BACKENDS)
        if self.chunk_labels is not None and self.chunk_labels < 1:
            raise ConfigError(f"chunk_labels = {self.chunk_labels!r} is not allowed. Expected 1 or more, or None")


LOSSES: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
_NUMBERS = count()


def register(loss: nn.Module) -> int:
    """Return a number of this process by which a compiled graph, which carries only numbers, finds the loss."""
    number = next(_NUMBERS)
    LOSSES[number] = loss
    return number


def label_vector(name: str, values: Tensor | Sequence[float] | None) -> Tensor | None:
    """Return one float32 number a label, (L,), or None.

    Raises:
        ConfigError: another shape; a number that is not finite.
    """
    if values is None:
        return None
    vector = torch.as_tensor(values).detach().float()
    if vector.ndim != 1 or len(vector) == 0:
        raise ConfigError(f"{name} is {tuple(vector.shape)}. Expected one number a label, (L,)")
    if not bool(vector.isfinite().all()):
        label = int((~vector.isfinite()).nonzero()[0])
        raise ConfigError(f"{name}: label {label} has {vector[label].item()}. Expected finite numbers")
    return vector.clone()


def weight_vector(values: Tensor | Sequence[float] | None) -> Tensor | None:
    """Return the positive weights, (L,) float32, or None.

    Raises:
        ConfigError: another shape; a weight that is not finite and above 0.
    """
    vector = label_vector("positive_weight", values)
    if vector is not None and bool((vector <= 0).any()):
        label = int((vector <= 0).nonzero()[0])
        raise ConfigError(f"positive_weight: label {label} has {vector[label].item()}. Expected numbers above 0")
    return vector


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ConfigError, with the nearest allowed word, unless the value is allowed."""
    if value not in allowed:
        hint = did_you_mean(str(value), list(allowed))
        raise ConfigError(f"{name} = {value!r} is not allowed.{hint} Expected one of {', '.join(allowed)}")


def check_range(name: str, value: float, low: float, high: float, *, otherwise: str = "") -> None:
    """Raise ConfigError unless low <= value <= high.

    >>> check_range("gamma", -1, 0, 5)
    Traceback (most recent call last):
    hyperfocal.errors.ConfigError: gamma = -1 is not allowed. Expected a number from 0 to 5
    """
    if not low <= value <= high or value == math.inf:
        limits = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} = {value!r} is not allowed. Expected a number {limits}{otherwise}")
