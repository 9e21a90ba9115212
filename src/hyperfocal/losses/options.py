"""The options of the losses, the checks of their arguments, and the reductions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError, DataError, HyperfocalError, did_you_mean
from hyperfocal.labels import SparseLabels, has_data

REDUCTIONS = ("positives", "batch", "mean", "sum", "none")
BACKENDS = ("auto", "reference", "chunked", "native", "triton")


class RowOptions(TypedDict, total=False):
    """The options of LossOptions that a sampled loss takes too."""

    positive_weight: Tensor | Sequence[float] | None
    ignore_empty: bool
    check_finite: bool


class WalkOptions(RowOptions, total=False):
    """The options of LossOptions except `reduction`."""

    backend: str
    chunk_labels: int | None


class LossOptions(WalkOptions, total=False):
    """The keyword options that every fused loss takes; one that is not allowed raises ConfigError.

    Keys:
        reduction: the divisor of the sum over examples and labels: "positives", the number of positives
            in the batch (at least 1), as in the focal loss paper; "batch", the number of examples; "mean",
            the number of (example, label) pairs; "sum", 1. "none" returns (B,), the sum over the labels of each
            example. Divisors exclude masked pairs, and with `ignore_empty` empty rows.
        positive_weight: (L,) above 0, multiplies the positive term of each label; see `capped_weights`.
        ignore_empty: whether rows without a positive are left out of value, gradient and divisor.
        backend: "reference" (dense, holds B x L logits); "chunked" (plain torch, any loss and device); "native"
            (chunked, its elementwise work one compiled pass: BCELoss and FocalLoss, float32 maths on CPU, needs a
            C compiler); "triton" (compiled kernels for GPUs, SoftmaxLoss too: needs `pip install triton`); "auto",
            the fastest available.
        chunk_labels: labels per chunk; None derives the number from batch and device.
        check_finite: whether NaN and infinity in hidden, weight and bias are an error. Costs a pass over them.
    """

    reduction: str


@dataclass(frozen=True)
class Options:
    """The checked options of a loss, except its weights; see LossOptions.

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


def label_vector(name: str, values: Tensor | Sequence[float] | None) -> Tensor | None:
    """Return one float32 number per label, (L,), or None.

    Raises:
        ConfigError: another shape; a number that is not finite; a tensor that requires a gradient.
    """
    if values is None:
        return None
    vector = (constant(name, values) if isinstance(values, Tensor) else torch.as_tensor(values)).float()
    if vector.ndim != 1 or len(vector) == 0:
        raise ConfigError(f"{name} is {tuple(vector.shape)}. Expected one number per label, (L,)")
    if not bool(vector.isfinite().all()):
        label = int((~vector.isfinite()).nonzero()[0])
        raise ConfigError(f"{name}: label {label} has {vector[label].item()}. Expected finite numbers")
    return vector.clone()


def constant(name: str, values: Tensor) -> Tensor:
    """Return a tensor without its graph; raise ConfigError if it requires a gradient, which it would never get."""
    if values.requires_grad and torch.is_grad_enabled():
        raise ConfigError(f"{name} requires a gradient, but a loss treats it as a constant. Pass {name}.detach()")
    return values.detach()


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


def check_call(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels, mask: SparseLabels | None
) -> None:
    """Check hidden, weight, bias, labels and mask of one fused call.

    Raises:
        DataError: dtypes that are not floats, or differ outside autocast; mixed devices; shapes that do not match.
    """
    tensors = {"hidden": hidden, "weight": weight} | ({} if bias is None else {"bias": bias})
    for name, tensor in tensors.items():
        check_float(name, tensor)
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise DataError(
            f"expected hidden (B, D) and weight (L, D), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != (len(weight),):
        raise DataError(f"expected bias ({len(weight)},), got {tuple(bias.shape)}")
    source = f"hidden has {len(hidden)} rows and weight {len(weight)} labels"
    check_labels(labels, mask, hidden, len(weight), source)
    _check_alike(tensors)


def _check_alike(tensors: dict[str, Tensor]) -> None:
    """Check that all tensors share a device and, outside autocast, a dtype, as torch.nn.functional.linear does."""
    device, dtype = tensors["hidden"].device, tensors["hidden"].dtype
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise DataError(f"hidden is on {device} but {name} on {tensor.device}. Move them to one device")
        if tensor.dtype != dtype and not is_autocast(device):
            raise DataError(f"hidden is {dtype} but {name} {tensor.dtype}. Convert one, or call under torch.autocast")


def is_autocast(device: torch.device) -> bool:
    """Return whether torch.autocast is active for a device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def check_logits(logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> None:
    """Check logits, labels and mask of one `from_logits` call."""
    check_float("logits", logits)
    if logits.ndim != 2:
        raise DataError(f"expected logits (B, L), got {tuple(logits.shape)}")
    check_labels(labels, mask, logits, logits.shape[1], f"logits are {tuple(logits.shape)}")


def check_labels(labels: SparseLabels, mask: SparseLabels | None, inputs: Tensor, num_labels: int, source: str) -> None:
    """Check that labels and mask are B rows over L labels; `source` says which tensors give B and L.

    `inputs`, (B, ...), are hidden or the logits.
    """
    for name, sparse in {"labels": labels, "mask": mask}.items():
        if sparse is None and name == "mask":
            continue
        if not isinstance(sparse, SparseLabels):
            kind = type(sparse).__name__
            raise DataError(f"{name} are a {kind}. Expected SparseLabels; see SparseLabels.from_lists and from_dense")
        if (len(sparse), sparse.num_labels) != (inputs.shape[0], num_labels):
            raise DataError(f"{name} are {len(sparse)} rows over {sparse.num_labels} labels, but {source}")
        if not torch.compiler.is_compiling():
            _check_data(name, sparse, inputs)


def _check_data(name: str, labels: SparseLabels, inputs: Tensor) -> None:
    """Check that labels have data if the inputs have, and that label ids lie in [0, L) where reading them is free."""
    ids = labels.indices
    if not has_data(inputs):
        return
    if not has_data(ids):
        raise DataError(f"{name} are on {ids.device}, without data. Build them on a device that holds data")
    if ids.device.type != "cpu" or not len(ids):
        return
    batched = DataError(
        f"{name} are batched by torch.func.vmap. Call the loss once for all rows, with `reduction='none'` for a loss "
        "per row"
    )
    lowest, highest, _ = (_read(number, batched) for number in (*torch.aminmax(ids), labels.indptr[-1]))
    if lowest < 0 or highest >= labels.num_labels:
        raise DataError(
            f"{name} have the label id {lowest if lowest < 0 else highest}. Expected 0 to {labels.num_labels - 1}; "
            "SparseLabels.from_padded leaves out the padding"
        )


def check_vector(name: str, vector: Tensor | None, num_labels: int) -> None:
    """Check that a vector of the loss has one number per label."""
    if vector is not None and len(vector) != num_labels:
        raise DataError(f"{name} has {len(vector)} numbers, but there are {num_labels} labels")


def check_float(name: str, tensor: Tensor) -> None:
    """Check that a tensor holds real floats."""
    if not tensor.is_floating_point():
        raise DataError(f"{name} is {tensor.dtype}. Expected a float: float64, float32, bfloat16 or float16")


def check_finite(**tensors: Tensor | None) -> None:
    """Raise DataError, with the first index, if a tensor holds NaN or infinity; ConfigError if vmap hides them."""
    for name, tensor in tensors.items():
        if tensor is None or not has_data(tensor):
            continue
        batched = ConfigError(f"`check_finite=True` cannot read {name} under torch.func.vmap. Set `check_finite=False`")
        if not _read(tensor.isfinite().all(), batched):
            place = (~tensor.isfinite()).nonzero()[0].tolist()
            raise DataError(f"{name} holds {tensor[tuple(place)].item()} at {place}. Expected finite numbers")


def _read(number: Tensor, batched: HyperfocalError) -> Any:
    """Return the number of a tensor; raise `batched` if vmap, within any other transforms, hides it."""
    try:
        return number.item()
    except RuntimeError as error:
        if "vmap" in str(error):
            raise batched from error
        raise


def row_scale(labels: SparseLabels, mask: SparseLabels | None, options: Options, dtype: torch.dtype) -> Tensor:
    """Return the factor of each row's loss, (B,): 1 / divisor, or 0 for a row that is ignored.

    The labels are the positives without masked ones.
    """
    terms = torch.full_like(labels.lengths, labels.num_labels)
    return scale_of(labels.lengths, terms if mask is None else terms - mask.lengths, options, dtype)


def scale_of(positives: Tensor, terms: Tensor, options: Options, dtype: torch.dtype) -> Tensor:
    """Return the factor of each row's loss, (B,), from its numbers of positives and of terms; never divide by 0."""
    counted = (positives > 0) if options.ignore_empty else torch.ones_like(positives, dtype=torch.bool)
    scale = counted.to(dtype)
    if options.reduction in ("sum", "none"):
        return scale
    sizes = {"positives": positives, "batch": counted, "mean": terms * counted}
    return scale / sizes[options.reduction].sum().clamp(min=1)


def divisor(labels: SparseLabels, options: Options) -> int | None:
    """Return the divisor of the sum over the examples, without a mask; None for no division.

    The loss divides by 1 instead of 0, but here 0 stays 0: a batch without positives adds nothing. Losses of
    several batches, each times its own divisor, sum to the loss of their union times the sum of the divisors.

    >>> labels = SparseLabels.from_lists([[0, 2], [], [1]], num_labels=3)
    >>> [divisor(labels, Options(reduction=name)) for name in ("positives", "batch", "mean", "sum")]
    [3, 3, 9, None]
    >>> divisor(labels, Options(reduction="batch", ignore_empty=True))
    2
    """
    if options.reduction in ("sum", "none"):
        return None
    rows = int(labels.lengths.count_nonzero()) if options.ignore_empty else len(labels)
    return {"positives": labels.num_positives, "batch": rows, "mean": rows * labels.num_labels}[options.reduction]
