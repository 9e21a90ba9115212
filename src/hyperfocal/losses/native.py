"""Compile `native.c` once for this machine and call it: the elementwise work of a chunk in one pass instead of nine.

The first installed C compiler ($CC, cc, gcc or clang) builds the library in well under a second when a loss first
needs it. The library stays in the user's cache, under the hash of source, flags, compiler and processor, and
shares torch's OpenMP threads. Without a compiler, or with HYPERFOCAL_NATIVE=0, the losses compute in plain torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.terms import FocalTerms
from hyperfocal.machine import default_cache
from hyperfocal.private.work import temporary_folder
from hyperfocal.storage.entries import cached

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
X86_FLAGS = ("-mprefer-vector-width=512",)
NOT_A_PROGRAM = 8  # MFD_NOEXEC_SEAL, which Python does not name yet


@cache
def unavailable() -> str:
    """Return the reason why the library cannot be used, or "" if it can; the first call builds the library."""
    if os.environ.get("HYPERFOCAL_NATIVE") == "0":
        return "HYPERFOCAL_NATIVE=0"
    if platform.system() != "Linux":
        return f"it is built on Linux only, and this is {platform.system()}"
    try:
        _library()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"cannot be built: {error}"
    return ""


def focal_pass_(
    logits: Tensor,
    offset: Tensor,
    terms: FocalTerms,
    first: int,
    labels: SparseLabels,
    mask: SparseLabels | None = None,
    label_weight: Tensor | None = None,
) -> Tensor:
    """Replace the logits of a chunk by their slopes, and return the loss of each row, (B,).

    Args:
        logits: (B, C) contiguous float32 on CPU, of the labels from `first` on, without their offset.
        offset: (L,) float32, added to the logits of each label.
        terms: the two scalar functions.
        first: label of the first column.
        labels: the positives, B rows over all labels, without masked pairs.
        mask: pairs whose term and slope are 0, or None.
        label_weight: (L,) float32, a factor for each label's positives, or None.
    """
    pairs = [labels.indptr, labels.indices] + ([] if mask is None else [mask.indptr, mask.indices])
    numbers = [logits, offset] + ([] if label_weight is None else [label_weight])
    assert all(tensor.is_contiguous() for tensor in (*numbers, *pairs))
    assert all(tensor.dtype == torch.float32 for tensor in numbers)
    assert all(tensor.dtype == torch.int64 for tensor in pairs)
    rows = torch.empty(len(logits), dtype=torch.float32)
    weight = None if label_weight is None else label_weight.data_ptr()
    lists = [tensor.data_ptr() for tensor in pairs] + [None] * (4 - len(pairs))
    sizes = (*logits.shape, first, *terms)
    chunk = (logits.data_ptr(), rows.data_ptr(), offset.data_ptr())
    _library()(*chunk, *sizes, weight, *lists, torch.get_num_threads())
    return rows


@cache
def _library() -> Callable[..., None]:
    compiler, flags = _compiler(), FLAGS + (X86_FLAGS if platform.machine() in ("x86_64", "AMD64") else ())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(flags).encode(), version, _processor()])).hexdigest()
    arrays = cached(default_cache(), key, lambda: {"library": _build([compiler, *flags])})
    function = _load(arrays["library"].tobytes()).hyperfocal_focal
    pointer, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    function.argtypes = (*[pointer] * 3, *[integer] * 3, *[number] * 3, *[pointer] * 5, ctypes.c_int)
    function.restype = None
    focal: Callable[..., None] = function
    return focal


def _compiler() -> str:
    names = filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler is installed ($CC, cc, gcc or clang)")
    return compiler


def _build(command: list[str]) -> NDArray[np.uint8]:
    """Compile the source, with all temporary files in one folder that is removed, and return the library."""
    with temporary_folder() as work:
        path = work / "native.so"
        result = subprocess.run(
            [*command, "-shared", str(SOURCE), "-o", str(path)],
            env=os.environ | {"TMPDIR": str(work)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["it failed without a message"]
            raise OSError(f"{command[0]}: {lines[0]}")
        return np.fromfile(path, dtype=np.uint8)


def _load(library: bytes) -> ctypes.CDLL:
    """Load a library from memory: the bytes that were checked, which no other process can change or cut.

    If the system does not allow that, load it from a temporary file, which is removed.
    """
    with suppress(OSError), os.fdopen(_memory_file(), "wb") as file:
        file.write(library)
        file.flush()
        return ctypes.CDLL(f"/proc/{os.getpid()}/fd/{file.fileno()}")
    with temporary_folder() as work:
        (work / "native.so").write_bytes(library)
        return ctypes.CDLL(str(work / "native.so"))


def _memory_file() -> int:
    try:
        return os.memfd_create("hyperfocal-native", os.MFD_CLOEXEC | NOT_A_PROGRAM)
    except OSError:  # Linux before 6.3 does not know the flag, which later ones may demand
        return os.memfd_create("hyperfocal-native", os.MFD_CLOEXEC)


def _processor() -> bytes:
    """Return the features that -march=native depends on: different machines may share a home folder."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
        return b"".join(
            dict.fromkeys(line for line in lines if line.startswith((b"flags", b"Features", b"model name")))
        )
    return platform.processor().encode()
