"""`native.c` compiled once for this machine: the elementwise work of a chunk in one pass instead of nine.

The library is built by the C compiler that is found ($CC, cc, gcc or clang) in well under a second, when a
loss first asks for it, and kept in the user's cache folder under the hash of source, flags and compiler.
It shares torch's OpenMP threads. Without a compiler the losses compute in plain torch. Set
HYPERFOCAL_NATIVE=0 to do so in any case.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
X86_FLAGS = ("-mprefer-vector-width=512",)


@cache
def unavailable() -> str:
    """Return why the library cannot be used, or "" if it can; the first call builds it."""
    if os.environ.get("HYPERFOCAL_NATIVE") == "0":
        return "HYPERFOCAL_NATIVE=0"
    if platform.system() != "Linux":
        return f"built on Linux only, this is {platform.system()}"
    try:
        _library()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"cannot be built: {error}"
    return ""


class FocalTerms(NamedTuple):
    """What the pass computes: neg(z) = negative * f(z), pos(z) = positive * f(-z).

    f(z) = sigmoid(z)^gamma * softplus(z).
    """

    gamma: float
    negative: float = 1.0
    positive: float = 1.0


def focal_pass_(
    logits: Tensor,
    offset: Tensor,
    terms: FocalTerms,
    first: int,
    labels: SparseLabels,
    mask: SparseLabels | None = None,
    label_weight: Tensor | None = None,
) -> Tensor:
    """Return (B,) the loss of each row in a chunk, and turn the logits into their slopes.

    Args:
        logits: (B, C) contiguous float32 on CPU, of the labels from `first` on, without their offset.
        offset: (L,) float32, added to the logits of each label.
        terms: the two scalar functions.
        first: label of the first column.
        labels: the positives, B rows over all labels, none of them masked.
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
    function = ctypes.CDLL(str(_built())).hyperfocal_focal
    pointer, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    function.argtypes = (*[pointer] * 3, *[integer] * 3, *[number] * 3, *[pointer] * 5, ctypes.c_int)
    function.restype = None
    found: Callable[..., None] = function
    return found


def _built() -> Path:
    """Return the path of the library, built if need be: written aside and renamed, so processes may race."""
    compiler = next(
        (found for name in (os.environ.get("CC"), "cc", "gcc", "clang") if (found := shutil.which(name or ""))), None
    )
    if compiler is None:
        raise FileNotFoundError("no C compiler is installed ($CC, cc, gcc or clang)")
    flags = FLAGS + (X86_FLAGS if platform.machine() in ("x86_64", "AMD64") else ())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(flags).encode(), version, _processor()]))
    path = _cache_folder() / f"native-{key.hexdigest()[:20]}.so"
    if not path.exists():
        aside = path.with_name(f"{path.stem}.{os.getpid()}.so")
        command = [compiler, *flags, "-shared", str(SOURCE), "-o", str(aside)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if result.returncode:
            raise OSError(f"{compiler}: {(result.stderr.strip().splitlines() or ['it failed and said nothing'])[0]}")
        aside.replace(path)
    return path


def _processor() -> bytes:
    """Return what -march=native depends on: a home folder may be shared by different machines."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
        return b"".join(
            dict.fromkeys(line for line in lines if line.startswith((b"flags", b"Features", b"model name")))
        )
    return platform.processor().encode()


def _cache_folder() -> Path:
    """Return the user's own cache folder, or a private temporary one where that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hyperfocal"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="hyperfocal-"))
