"""What a loss refuses before it computes: every message says what was got and what is allowed."""

import torch
from torch import Tensor

from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels


def check_call(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels, mask: SparseLabels | None
) -> None:
    """Check hidden, weight, bias, labels and mask of one fused call.

    Raises:
        DataError: dtypes that are no floats, or differ outside autocast; mixed devices; shapes that do not match.
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
    check_labels(
        labels, mask, len(hidden), len(weight), f"hidden has {len(hidden)} rows and weight {len(weight)} labels"
    )
    _check_alike(tensors)


def check_labels(labels: SparseLabels, mask: SparseLabels | None, batch: int, num_labels: int, found: str) -> None:
    """Check that labels and mask are B rows over L labels; `found` says where B and L come from."""
    for name, sparse in {"labels": labels, "mask": mask}.items():
        if sparse is None and name == "mask":
            continue
        if not isinstance(sparse, SparseLabels):
            raise DataError(f"{name} are a {type(sparse).__name__}. Expected SparseLabels; see SparseLabels.from_lists")
        if (len(sparse), sparse.num_labels) != (batch, num_labels):
            raise DataError(f"{name} are {len(sparse)} rows over {sparse.num_labels} labels, but {found}")


def check_logits(logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> None:
    """Check logits, labels and mask of one `from_logits` call."""
    check_float("logits", logits)
    if logits.ndim != 2:
        raise DataError(f"expected logits (B, L), got {tuple(logits.shape)}")
    check_labels(labels, mask, logits.shape[0], logits.shape[1], f"logits are {tuple(logits.shape)}")


def check_vector(name: str, vector: Tensor | None, num_labels: int) -> None:
    """Check that a vector of the loss has one number a label."""
    if vector is not None and len(vector) != num_labels:
        raise DataError(f"{name} has {len(vector)} numbers, but there are {num_labels} labels")


def check_float(name: str, tensor: Tensor) -> None:
    """Check that a tensor holds real floats."""
    if not tensor.is_floating_point():
        raise DataError(f"{name} is {tensor.dtype}. Expected a float: float64, float32, bfloat16 or float16")


def check_finite(**tensors: Tensor | None) -> None:
    """Raise DataError if a tensor holds NaN or infinity, with the first place."""
    for name, tensor in tensors.items():
        if tensor is not None and not bool(tensor.isfinite().all()):
            place = (~tensor.isfinite()).nonzero()[0].tolist()
            raise DataError(f"{name} holds {tensor[tuple(place)].item()} at {place}. Expected finite numbers")


def _check_alike(tensors: dict[str, Tensor]) -> None:
    """Check that all are on one device and, as for torch.nn.functional.linear, of one dtype outside autocast."""
    device, dtype = tensors["hidden"].device, tensors["hidden"].dtype
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise DataError(f"hidden is on {device} but {name} on {tensor.device}. Move them to one device")
        if tensor.dtype != dtype and not torch.is_autocast_enabled(device.type):
            raise DataError(f"hidden is {dtype} but {name} {tensor.dtype}. Convert one, or call under torch.autocast")
