"""Which way a loss is computed: chosen once, and said once in the log with its reason."""

from typing import Any

import torch

from hyperfocal.errors import ConfigError
from hyperfocal.losses import native, triton
from hyperfocal.losses.options import log_once


def choose(asked: str, loss: Any, device: torch.device) -> str:
    """Return the backend that `asked` stands for on this device, "chunked", "native" or "triton", and log why.

    Args:
        asked: "auto", "chunked", "native" or "triton".
        loss: its `native_terms` are None if neither the native pass nor the Triton kernels cover it.
        device: of hidden.

    Raises:
        ConfigError: "native" or "triton" was asked for and cannot be had.
    """
    if asked == "auto":
        asked, reason = _best(loss, device)
    elif asked in _MISSING and (missing := _MISSING[asked](loss, device)):
        raise ConfigError(f"backend = {asked!r} is not available: {missing}. Use 'auto' or 'chunked'")
    else:
        reason = "asked for"
    name = type(loss).__name__
    log_once(f"backend {asked} {device.type} {name}", f"backend {asked} on {device.type} for {name} ({reason})")
    return asked


def _best(loss: Any, device: torch.device) -> tuple[str, str]:
    """Return the fastest backend that can be had, and the reason; the interpreter of Triton is never fast."""
    if device.type == "cuda":
        missing = _no_triton(loss, device)
        return ("chunked", f"no Triton kernels: {missing}") if missing else ("triton", "auto: Triton kernels")
    missing = _no_native(loss, device)
    return ("chunked", f"no native pass: {missing}") if missing else ("native", "auto: one compiled pass")


def _no_native(loss: Any, device: torch.device) -> str:
    if getattr(loss, "native_terms", None) is None:
        return f"it covers BCELoss and FocalLoss, not {type(loss).__name__}"
    if device.type != "cpu":
        return f"it runs on cpu, not {device.type}"
    return native.unavailable()


def _no_triton(loss: Any, device: torch.device) -> str:
    if "triton" not in loss.walks or getattr(loss, "native_terms", ...) is None:  # a SoftmaxLoss has none to ask
        return f"it covers BCELoss, FocalLoss and SoftmaxLoss, not {type(loss).__name__}"
    return triton.unavailable(device)


_MISSING = {"native": _no_native, "triton": _no_triton}  # why a backend cannot be had
