"""Which way a loss is computed: chosen once, and said once in the log with its reason."""

import logging
from typing import Any

import torch

from hyperfocal.errors import ConfigError
from hyperfocal.losses import native

logger = logging.getLogger("hyperfocal")
_said: set[str] = set()


def choose(asked: str, loss: Any, device: torch.device) -> str:
    """Return the backend that `asked` stands for on this device, "chunked" or "native", and log why.

    Args:
        asked: "auto", "chunked" or "native".
        loss: its `native_terms` are None if the native pass does not cover it.
        device: of hidden.

    Raises:
        ConfigError: "native" was asked for and cannot be had.
    """
    missing = _no_native(loss, device)
    if asked == "native" and missing:
        raise ConfigError(f"backend = 'native' is not available: {missing}. Use 'auto' or 'chunked'")
    if asked == "auto":
        asked, reason = ("chunked", f"no native pass: {missing}") if missing else ("native", "auto: one compiled pass")
    else:
        reason = "asked for"
    name = type(loss).__name__
    log_once(f"backend {asked} {device.type} {name}", f"backend {asked} on {device.type} for {name} ({reason})")
    return asked


def _no_native(loss: Any, device: torch.device) -> str:
    if getattr(loss, "native_terms", None) is None:
        return f"it covers BCELoss and FocalLoss, not {type(loss).__name__}"
    if device.type != "cpu":
        return f"it runs on cpu, not {device.type}"
    return native.unavailable()


def log_once(topic: str, message: str) -> None:
    """Log a message, the first of its topic in this process."""
    if topic not in _said:
        _said.add(topic)
        logger.info("losses: %s", message)
