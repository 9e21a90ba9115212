"""Read the Extreme Classification format: numbered features and labels of N examples.

    N F L                       the first line: numbers of examples, features and labels
    3,17 0:1 5:0.5 211:1        the labels of an example, then its features and their values; both from 0
     12:1                       an example without labels begins with a space

The files may be compressed. The repository of the format is http://manikvarma.org/downloads/XC/XMLRepository.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy import sparse

from hyperfocal.data.compression import READ_ERRORS
from hyperfocal.data.files import File
from hyperfocal.data.signatures import HEAD_BYTES, foreign_format
from hyperfocal.data.text_bytes import damage_of
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels, row_pointers

BLOCK_BYTES = 2**26  # text parsed at a time
FIRST_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(\d+)\s+(\d+)\s+(\d+)\s*")
FIRST_BYTES = 200  # of the first line
INTEGER = re.compile(rb"\+?0*(\d+)")
LARGEST_SIZE = 2**31 - 1  # a pair of an example and a label is one 64-bit number
DIGITS = 18  # of a number that is converted; one with more is out of range
NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LARGEST = float(np.finfo(np.float32).max)


class Sizes(NamedTuple):
    """The numbers in the first line."""

    examples: int  # N
    features: int  # F
    labels: int  # L


@dataclass(frozen=True, eq=False)
class ExtremeData:
    """N examples with F numbered features and L numbered labels."""

    features: sparse.csr_matrix  # (N, F) float32; indices of a row ascend
    labels: SparseLabels  # (N, L)


def read_extreme(path: str | Path) -> ExtremeData:
    """Return the features and labels of a file in the Extreme Classification format.

    Args:
        path: file, also compressed with gzip, bzip2 or zstd, of any name.

    Raises:
        DataError: no such file; a first line that is not `N F L`; a number of lines other than N; a feature or label
            id that is not an integer or is out of range; a feature that a row has twice; a value that is not a finite
            number. The message names the line.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "train.txt"
    >>> file.write_text("2 4 3\\n0,2 1:1 3:0.5\\n 0:2\\n")
    25
    >>> data = read_extreme(file)
    >>> data.features.toarray().tolist(), data.labels.to_dense().tolist()
    ([[0.0, 1.0, 0.0, 0.5], [2.0, 0.0, 0.0, 0.0]], [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    """
    file = File(Path(path))
    if not file.path.is_file():
        raise DataError(f"{file}: no such file. Check the path (looked in {Path.cwd()})")
    blocks: list[_Block] = []
    try:
        with file.open_bytes() as stream:
            sizes = _read_sizes(stream.readline(FIRST_BYTES), file)
            line = 2
            while lines := stream.readlines(BLOCK_BYTES):
                blocks.append(_parse(lines, sizes, file, line))
                line += len(lines)
    except READ_ERRORS as error:
        raise DataError(f"{file}: {damage_of(error)}") from None
    return _joined(blocks, sizes, file)


class _Block(NamedTuple):
    """The examples of consecutive lines."""

    features: sparse.csr_matrix  # (B, F)
    label_counts: NDArray[np.int64]  # (B,)
    labels: NDArray[np.int64]  # (P,)


def _read_sizes(line: bytes, file: File) -> Sizes:
    name, advice = foreign_format(line[:HEAD_BYTES], "lines")
    if name:
        raise DataError(f"{file}: is {name}. {advice}")
    match = FIRST_LINE.fullmatch(line)
    if not match:
        text = line[:80].decode(errors="replace").strip()
        raise DataError(
            f"{file} line 1: {text!r} is not `N F L`, the numbers of examples, features and labels. Write them there"
        )
    sizes = Sizes(*map(int, match.groups()))
    if max(sizes) > LARGEST_SIZE:
        raise DataError(f"{file} line 1: {max(sizes)} is too large. At most {LARGEST_SIZE:,} is allowed")
    return sizes


def _parse(lines: Sequence[bytes], sizes: Sizes, file: File, first: int) -> _Block:
    """Return the examples in lines; `first` is the number of the first line."""
    pairs = [_split(line) for line in lines]
    label_counts = np.array([labels.count(b",") + 1 if labels else 0 for labels, _ in pairs], dtype=np.int64)
    counts = np.array([features.count(b":") for _, features in pairs], dtype=np.int64)
    labels = _read_numbers(b",".join(filter(None, (labels for labels, _ in pairs))), ",", {"id": pl.Int64})
    numbers = _read_numbers(_joined_features(pairs), " ", {"id": pl.Int64, "value": pl.Float32})
    if labels is None or numbers is None:
        raise _first_fault(pairs, sizes, file, first)
    right = _fit(labels, label_counts, sizes.labels) and _fit(numbers, counts, sizes.features)
    if not right or not numbers["value"].is_finite().all():
        raise _first_fault(pairs, sizes, file, first)
    pointers = np.concatenate([[0], np.cumsum(counts)])
    arrays = (numbers["value"].to_numpy(), numbers["id"].to_numpy(), pointers)
    features = sparse.csr_matrix(arrays, shape=(len(lines), sizes.features), dtype=np.float32)
    features.sort_indices()
    if not features.has_canonical_format:
        raise _first_fault(pairs, sizes, file, first)
    return _Block(features, label_counts, labels["id"].to_numpy())


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Return the labels and the features of a line."""
    labels, _, features = line.replace(b"\t", b" ").rstrip().partition(b" ")
    return (b"", labels + b" " + features) if b":" in labels else (labels, features)


def _joined_features(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    joined = b" ".join(features.strip() for _, features in pairs).strip()
    while b"  " in joined:
        joined = joined.replace(b"  ", b" ")
    return joined


def _read_numbers(text: bytes, end: str, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame | None:
    """Return numbers separated by ":", in rows that end with `end`; None if there is something else."""
    if not text:
        return pl.DataFrame(schema=schema)
    try:
        return pl.read_csv(text, separator=":", eol_char=end, has_header=False, quote_char=None, schema=schema)
    except pl.exceptions.PolarsError:
        return None


def _fit(numbers: pl.DataFrame, counts: NDArray[np.int64], limit: int) -> bool:
    """Return whether no number is missing and all ids are in [0, limit)."""
    whole = len(numbers) == counts.sum() and not any(column.null_count() for column in numbers)
    return whole and bool(numbers["id"].is_between(0, limit, closed="left").all())


def _first_fault(pairs: Sequence[tuple[bytes, bytes]], sizes: Sizes, file: File, first: int) -> DataError:
    """Return the error for the first wrong line."""
    for line, (labels, features) in enumerate(pairs, first):
        fault = _label_fault(labels, sizes.labels) or _feature_fault(features.split(), sizes.features)
        if fault:
            return DataError(f"{file} line {line}: {fault}")
    return DataError(f"{file} lines {first} to {first + len(pairs) - 1}: not readable. Expected `l,l f:v f:v` in each")


def _label_fault(labels: bytes, limit: int) -> str:
    for label in labels.split(b",") if labels else ():
        if not INTEGER.fullmatch(label):
            return f"label {_quoted(label)} is not an integer. Expected ids such as 3,17 before the first space"
        if _is_outside(label, limit):
            return f"label {_quoted(label)} is out of range, because line 1 says {limit} labels. Ids begin at 0"
    return ""


def _feature_fault(features: Sequence[bytes], limit: int) -> str:
    seen = set()
    for feature in features:
        name, colon, value = feature.partition(b":")
        if not (colon and INTEGER.fullmatch(name)):
            return f"{_quoted(feature)} is not a feature. Expected an id and a value, such as 5:0.5"
        if _is_outside(name, limit):
            return f"feature {_quoted(name)} is out of range, because line 1 says {limit} features. Ids begin at 0"
        if not (NUMBER.fullmatch(value) and abs(float(value)) <= LARGEST):
            return f"feature {int(name)} has the value {_quoted(value)}. Expected a finite number"
        if int(name) in seen:
            return f"feature {int(name)} occurs twice. Write it once"
        seen.add(int(name))
    return ""


def _is_outside(name: bytes, limit: int) -> bool:
    match = INTEGER.fullmatch(name)
    return match is None or len(match[1]) > DIGITS or int(match[1]) >= limit


def _quoted(text: bytes) -> str:
    return repr(text[:40].decode(errors="replace"))


def _joined(blocks: Sequence[_Block], sizes: Sizes, file: File) -> ExtremeData:
    empty = sparse.csr_matrix(np.empty((0, sizes.features), dtype=np.float32))
    features = sparse.vstack([empty, *(block.features for block in blocks)], format="csr", dtype=np.float32)
    counts = np.concatenate([np.empty(0, np.int64), *(block.label_counts for block in blocks)])
    rows = len(counts)
    while rows > sizes.examples and counts[rows - 1] == 0 and features.indptr[rows - 1] == features.indptr[rows]:
        rows -= 1  # a blank line at the end
    if rows != sizes.examples:
        raise DataError(
            f"{file} line 1: says {sizes.examples:,} examples, but {rows:,} lines follow. The file may be truncated: "
            "copy or download it again, or correct the number"
        )
    indices = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *(block.labels for block in blocks)]))
    pointers = row_pointers(torch.from_numpy(counts[:rows]))
    return ExtremeData(features[:rows], SparseLabels.from_csr(pointers, indices, num_labels=sizes.labels))
