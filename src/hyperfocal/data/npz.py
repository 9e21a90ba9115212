"""Feature matrices and their labels in a NumPy archive, `.npz`.

    numpy.savez("train.npz", X=X, Y=Y)             dense X, (N, F), and Y, (N, L) of 0 and 1, or (N,) one label each
    scipy.sparse.save_npz("new.npz", X)            CSR, CSC or COO, without labels
    numpy.savez("train.npz", X_data=X.data, X_indices=X.indices, X_indptr=X.indptr, X_shape=X.shape, Y_data=...)
                                                   CSR, both or one of them

Labels of a matrix Y are named by the numbers of its columns. Pickled objects are refused: they may run code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hyperfocal.data.files import File
from hyperfocal.data.memory import check_bytes
from hyperfocal.errors import DataError

CSR = ("data", "indices", "indptr", "shape")
SAVED = ("format", "shape", "data", "indices", "indptr", "row", "col")  # by scipy's save_npz
NAMES = frozenset(["X", "Y", "y", *SAVED, *(f"{matrix}_{part}" for matrix in "XY" for part in CSR)])
ADVICE = "Write it with numpy.savez(file, X=X, Y=Y) or scipy.sparse.save_npz(file, X)"
Values = Any  # a dense array or a CSR matrix


class Archive(NamedTuple):
    """The content of a .npz file."""

    features: Values  # (N, F)
    labels: list[list[str]] | None  # of each row; None: the file has none


def is_npz(source: Any) -> bool:
    """Return whether a source is a path that names a .npz file."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() == ".npz"


def read_npz(path: str | Path) -> Archive:
    """Return the feature matrix and the labels of a .npz file.

    Raises:
        DataError: a damaged file, or one that needs more memory than there is; pickled objects; no feature matrix; an
            X that is not (N, F), a Y that is not of N rows of 0 and 1.
    """
    file = File(Path(path))
    if not file.path.is_file():
        raise DataError(f"{file}: no such file. Check the path (looked in {Path.cwd()})")
    arrays = _arrays(file)
    features = _matrix(arrays, "X", file)
    if features is None and "format" in arrays:
        features = _saved(arrays, file)
    if features is None:
        raise DataError(f"{file}: has no feature matrix: its arrays are {', '.join(arrays) or 'none'}. {ADVICE}")
    if features.ndim != 2:
        raise DataError(f"{file}: X has {features.ndim} dimensions. Expected 2: rows and features")
    return Archive(features, _labels(arrays, features.shape[0], file))


def _arrays(file: File) -> dict[str, NDArray[Any]]:
    """Return the arrays of known names, after the memory that they need has been checked."""
    try:
        with file.path.open("rb") as raw, np.load(raw, allow_pickle=False) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.zip.infolist()}
            known = {name: info for name, info in members.items() if name in NAMES}
            sizes = []
            for name, info in known.items():
                with archive.zip.open(info) as stream:
                    sizes.append(_size(stream, name, info.file_size, file))
            check_bytes(sum(sizes), file)
            return {name: archive[name] for name in known} or dict.fromkeys(members, np.empty(0))
    except DataError:
        raise
    except Exception as error:  # of the archive, its compression, or a header
        raise DataError(f"{file}: is no intact .npz file: {error}. {ADVICE}") from None


def _size(stream: IO[bytes], name: str, stored: int, file: File) -> int:
    """Return the bytes of an array by its header; raise DataError if it has objects, or more bytes than are stored."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(f"{file}: {name} holds Python objects, which may run code. Save it as numbers or texts")
    size = math.prod(shape) * dtype.itemsize
    if size > stored:
        raise DataError(f"{file}: {name} claims {size:,} bytes and has {stored:,}: the file is damaged. Write it again")
    return size


def _matrix(arrays: Mapping[str, NDArray[Any]], name: str, file: File) -> Values | None:
    """Return X or Y, dense or from the parts of a CSR matrix; None: the file has none."""
    if name in arrays:
        return arrays[name]
    parts = [f"{name}_{part}" for part in CSR]
    missing = [part for part in parts if part not in arrays]
    if len(missing) == len(parts):
        return None
    if missing:
        raise DataError(f"{file}: {missing[0]} is missing beside {name}_data. A CSR matrix needs {', '.join(parts)}")
    data, indices, indptr, shape = (arrays[part] for part in parts)
    return _checked(lambda: sparse.csr_matrix((data, indices, indptr), shape=tuple(shape.tolist())), name, file)


def _saved(arrays: Mapping[str, NDArray[Any]], file: File) -> Values:
    """Return a matrix that scipy's save_npz has written."""
    kind, shape = arrays["format"].item(), tuple(arrays["shape"].tolist())
    kind = kind.decode() if isinstance(kind, bytes) else kind
    kinds = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
    if kind in kinds:
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        return _checked(lambda: kinds[kind](parts, shape=shape).tocsr(), "the matrix", file)
    if kind == "coo":
        places = (arrays["row"], arrays["col"])
        return _checked(lambda: sparse.coo_matrix((arrays["data"], places), shape=shape).tocsr(), "the matrix", file)
    raise DataError(f"{file}: holds a sparse matrix of format {kind!r}. Save X.tocsr()")


def _checked(build: Any, name: str, file: File) -> Values:
    """Return a sparse matrix whose indices are inside of it: products would read memory at any other."""
    try:
        matrix = build()
        matrix.check_format(full_check=True)
        matrix.sum_duplicates()
    except (ValueError, TypeError, IndexError) as error:
        raise DataError(f"{file}: {name} is no valid sparse matrix: {error}. Write it again") from None
    return matrix


def _labels(arrays: Mapping[str, NDArray[Any]], rows: int, file: File) -> list[list[str]] | None:
    labels = _matrix(arrays, "Y", file)
    labels = arrays.get("y") if labels is None else labels
    if labels is None:
        return None
    if labels.ndim not in (1, 2) or labels.shape[0] != rows:
        raise DataError(f"{file}: Y has the shape {labels.shape}, but X has {rows:,} rows. Give each row its labels")
    if labels.ndim == 1:
        return [[str(label)] for label in labels.tolist()]
    if labels.dtype.kind not in "biuf" or not np.isin(_entries(labels), (0, 1)).all():
        raise DataError(f"{file}: Y has values other than 0 and 1. Expected 1 where a row has a label")
    pairs = sparse.csr_matrix(labels)
    pairs.eliminate_zeros()
    names = [str(label) for label in pairs.indices.tolist()]
    return [names[start:stop] for start, stop in zip(pairs.indptr[:-1], pairs.indptr[1:], strict=True)]


def _entries(labels: Values) -> NDArray[Any]:
    """Return the values of a matrix, of a sparse one those that are stored."""
    return labels.data if isinstance(labels, sparse.csr_matrix) else np.asarray(labels)
