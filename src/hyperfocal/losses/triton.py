"""Launches of the Triton kernels: over the tiles, pairs or columns of a chunk, if the kernels can run here.

Triton is optional, and is imported when a loss first needs it. Its interpreter runs the same kernels on CPU,
slowly, for the tests: set TRITON_INTERPRET=1 before anything imports triton. The kernels are in
`triton_kernels.py`, the walks that call them in `triton_walks.py`.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels

BLOCK = 1024  # logits per tile
PAIRS = 256  # pairs per program
TALL, WIDE = 32, 128  # rows at a time, and columns, of the sums over rows


@cache
def unavailable(device: torch.device) -> str:
    """Return the reason why the kernels cannot run on a device, or "" if they can; the first call runs one kernel.

    An import is not enough: Triton also needs a recent GPU, and a C compiler.
    """
    if find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device.type not in ("cuda", "cpu"):
        return f"it runs on cuda, not {device.type}"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it runs on cuda, and on cpu only in Triton's interpreter: set TRITON_INTERPRET=1 before the start"
    try:
        _trial(device)
    except Exception as error:  # any type: the driver, the compiler and Triton raise different ones
        return f"it cannot run here: {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    return ""


def _trial(device: torch.device) -> None:
    numbers = torch.zeros(1, 3, device=device)
    label = SparseLabels.from_lists([[1]], num_labels=3).to(device)
    over_pairs("put_pairs", numbers, label.rows, label, 0, torch.ones(1, device=device))
    if numbers.tolist() != [[0, 1, 0]]:
        raise RuntimeError(f"a kernel that writes 1 gave {numbers.tolist()}")


def over_pairs(
    kernel: str, chunk: Tensor, rows: Tensor, pairs: SparseLabels, first: int, *arguments: Any, **constants: Any
) -> None:
    """Run a kernel over the pairs that are in a chunk.

    Args:
        kernel: its name in `triton_kernels`.
        chunk: (B, C) contiguous, of the labels from `first` on.
        rows: (P,) int64, the rows of `pairs`.
        pairs: B rows over all labels.
        first: label of the first column.
        arguments, constants: the kernel's further arguments.
    """
    count = pairs.num_positives
    places = (chunk, rows, pairs.indices, count, first, chunk.shape[1])
    _launch(kernel, (-(-count // PAIRS),), *places, *arguments, **constants, block=PAIRS)


def over_tiles(kernel: str, chunk: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel over the tiles of a chunk, (B, C) contiguous."""
    grid = (len(chunk), -(-chunk.shape[1] // BLOCK))
    _launch(kernel, grid, chunk, *arguments, **constants, block=BLOCK)


def for_tiles(chunk: Tensor) -> Tensor:
    """Return memory for a number per tile, (B, tiles of a row)."""
    return chunk.new_empty((len(chunk), -(-chunk.shape[1] // BLOCK)), dtype=torch.float32)


def over_columns(kernel: str, chunk: Tensor, *arguments: Any) -> None:
    """Run a kernel over the columns of a chunk, (B, C) contiguous."""
    grid = (-(-chunk.shape[1] // WIDE),)
    _launch(kernel, grid, chunk, *arguments, *chunk.shape, tall=TALL, block=WIDE)


def _launch(kernel: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the GPU of its first argument; an empty grid runs nothing."""
    from hyperfocal.losses import triton_kernels  # imports triton, which is optional

    if 0 not in grid:
        with torch.cuda.device_of(arguments[0]):
            getattr(triton_kernels, kernel)[grid](*arguments, **constants)
