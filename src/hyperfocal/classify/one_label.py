"""One label per document: the classes of a 1-D target, and the checks of documents with one label each."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperfocal.config.classify import ONE_RULES, ClassifySettings
from hyperfocal.data.documents import Documents
from hyperfocal.data.files import File
from hyperfocal.data.frames import is_missing, plain_text
from hyperfocal.errors import ConfigError, DataError

ClassKind = Literal["text", "integer", "float", "bool"]
KINDS: dict[ClassKind, tuple[type, ...]] = {
    "bool": (bool, np.bool_),
    "integer": (int, np.integer),
    "float": (float, np.floating),
    "text": (str,),
}
DTYPES: dict[ClassKind, str] = {"bool": "b", "integer": "i", "float": "f", "text": "U"}  # kinds of numpy's dtypes
SCALARS = (bool, int, float, str, np.generic)
HOW = "Give a list or an array with one label per text"

logger = logging.getLogger("hyperfocal")


@dataclass(frozen=True)
class Classes:
    """The classes of documents that have one label each, in the type of the target.

    Attributes:
        names: (L,) the labels as texts, in the order of the model's scores.
        kind: the type of the labels that `fit` got; "text" if they are from a file.
    """

    names: tuple[str, ...]
    kind: ClassKind = "text"

    @classmethod
    def from_json(cls, kind: Any, names: list[str]) -> Classes:
        """Return the classes of a run whose labels have these names; DataError if they are not of this kind."""
        if kind not in get_args(ClassKind):
            raise DataError(f"classes of the kind {kind!r:.20}. Allowed: {', '.join(get_args(ClassKind))}")
        classes = cls(tuple(names), kind)
        try:
            typed = classes.values
        except ValueError:
            typed = np.empty(0)
        if typed.dtype.kind != DTYPES[classes.kind] or len(set(typed.tolist())) != len(names):
            raise DataError(f"classes of the kind {kind} cannot have names such as {''.join(names[:1])!r:.20}")
        return classes

    def extended(self, names: Sequence[str]) -> Classes:
        """Return the classes followed by others; DataError unless all are texts."""
        if self.kind != "text":
            raise DataError(
                f"new labels: the classes of training are of type {self.kind}, and {min(names)!r} is a text. Fit again "
                "with classes that are texts"
            )
        return Classes((*self.names, *names))

    @cached_property
    def _typed(self) -> NDArray[Any]:
        """Return (L,) the labels in their type, in the order of the scores."""
        if self.kind == "bool":
            return np.asarray([name == "true" for name in self.names], dtype=bool)
        if self.kind == "text":
            return np.asarray(self.names, dtype=str)
        return np.asarray([int(name) if self.kind == "integer" else float(name) for name in self.names])  # see DTYPES

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Return (L,) the column of the scores of each class, in the order of `values`."""
        return np.argsort(self._typed, kind="stable")

    @property
    def values(self) -> NDArray[Any]:
        """Return (L,) the classes in their type, ascending, as `numpy.unique` returns them."""
        values: NDArray[Any] = self._typed[self.order]
        return values

    def take(self, numbers: Tensor) -> NDArray[Any]:
        """Return (N,) the classes of N columns of the scores."""
        labels: NDArray[Any] = self._typed[numbers.numpy()]
        return labels

    def sorted(self, scores: Tensor) -> NDArray[np.float32]:
        """Return (N, L) the columns of scores in the order of `values`."""
        columns: NDArray[np.float32] = np.ascontiguousarray(scores.numpy()[:, self.order])
        return columns

    def decision(self, scores: Tensor) -> NDArray[np.float32]:
        """Return scores as scikit-learn's `decision_function`: (N, L), or the difference (N,) of two classes."""
        columns = self.sorted(scores)
        return columns[:, 1] - columns[:, 0] if columns.shape[1] == 2 else columns


def classes_of(names: list[str], target: object) -> Classes:
    """Return the classes with the names of the vocabulary, and the type of the target of `fit`."""
    return Classes(tuple(names), target.kind if isinstance(target, Classes) else "text")


def is_one_label(labels: Any) -> bool:
    """Return whether labels are one per document: a list, an array or a series of texts, numbers or bools.

    So is an array of one column, (N, 1), unless it is an indicator matrix of 0 and 1.

    >>> is_one_label(["a", "b"]), is_one_label([3, None]), is_one_label([["a"], ["b"]])
    (True, True, False)
    """
    if labels is None or isinstance(labels, str | bytes | Mapping):
        return False
    labels = _flat(labels)
    if len(getattr(labels, "shape", (1,))) != 1 or isinstance(labels, AbstractSet) or not hasattr(labels, "__len__"):
        return False
    values = _listed(labels)
    return any(isinstance(value, SCALARS) for value in values) and all(
        isinstance(value, SCALARS) or is_missing(value) for value in values
    )


def read_classes(labels: Any) -> tuple[list[list[str]], ClassKind]:
    """Return a list with the one label of each document as text, and the type of the labels.

    Args:
        labels: a target for which `is_one_label` is true.

    Raises:
        DataError: a label is missing, infinite, a fraction or an empty text; labels of several types.
    """
    values = _listed(labels)
    for row, value in enumerate(values):
        if is_missing(value) or (isinstance(value, float | np.floating) and math.isinf(value)):
            what = "infinity" if not is_missing(value) else "NaN" if isinstance(value, float) else str(value)
            raise DataError(f"labels: Input y contains {what} at row {row}. {HOW}, or leave such texts out")
    kinds = {_kind_of(value): row for row, value in reversed([*enumerate(values)])}
    if len(kinds) > 1:
        (first, at), (second, there), *_ = sorted(kinds.items(), key=lambda item: item[1])
        raise DataError(f"labels: row {at} is of type {first} and row {there} of type {second}. {HOW}, all of one type")
    kind = next(iter(kinds))
    names = [plain_text(value) for value in values]
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        if kind == "float" and not float(value).is_integer():
            raise DataError(
                f"Unknown label type: continuous. labels: row {row} is {value}, a fraction; a class is a text, a "
                "whole number or a bool"
            )
        if kind == "integer" and not -(2**63) <= int(value) < 2**63:
            raise DataError(f"labels: row {row} is {value}, which no 64-bit integer holds. Give such labels as texts")
        if name != name.strip() or not name:
            raise DataError(f"labels: row {row} is {name!r}, which is empty or has spaces around it. Strip the labels")
    return [[name] for name in names], kind


def _flat(labels: Any) -> Any:
    """Return a target that is no list as an array; a column of another thing than 0 and 1 as one of one dimension."""
    if hasattr(labels, "__array__") and not isinstance(labels, Iterable):
        labels = np.asarray(labels)
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.shape[1] != 1:
        return labels
    return labels if set(labels[:, 0].tolist()) <= {0, 1} else labels[:, 0]


def _listed(labels: Any) -> list[Any]:
    """Return a target as a list: of a tensor, an array of pyarrow or any other sequence."""
    labels = _flat(labels)
    if hasattr(labels, "to_pylist"):
        values: list[Any] = labels.to_pylist()
        return values
    return labels.tolist() if isinstance(labels, np.ndarray | Tensor) else list(labels)


def _kind_of(value: Any) -> ClassKind:
    return next((kind for kind, types in KINDS.items() if isinstance(value, types)), "text")


def check_one_label(settings: ClassifySettings) -> None:
    """Check the settings that belong to documents with one label, or with several.

    Raises:
        ConfigError: a decision rule or an objective of the other kind; a label tree whose parents are added.
    """
    decide, single = settings.decide, settings.data.single
    if single and decide.rule not in ONE_RULES:
        raise ConfigError(
            f"decide.rule = {decide.rule!r} may decide several labels, but each document has one. "
            "Give `decide='argmax'` or `decide='balanced'`"
        )
    if not single and (decide.rule in ONE_RULES or decide.objective == "recall"):
        name, value = ("rule", decide.rule) if decide.rule in ONE_RULES else ("objective", decide.objective)
        raise ConfigError(
            f"decide.{name} = {value!r} is for documents with one label each. Say so with "
            "`settings={'data.single': True}`, or choose another one"
        )
    if single and settings.data.unknown:
        raise ConfigError(
            f"data.unknown = {settings.data.unknown!r} is for documents with any number of labels, but here each "
            "document has one. Leave `unknown=` out"
        )
    if single and decide.objective == "f_beta":
        raise ConfigError(
            "decide.objective = 'f_beta' is not for documents with one label each. Give micro, macro, both or recall"
        )
    if single and (settings.data.add_parents or settings.data.consistent):
        name = "add_parents" if settings.data.add_parents else "consistent"
        raise ConfigError(f"data.{name} adds labels, but each document has one. Leave it out, or leave data.single out")


def only_labelled(documents: Documents, source: Any, name: str) -> tuple[Documents, int]:
    """Return the documents that have a label, and how many have none and are left out.

    Args:
        documents: of a fit with one label per document.
        source: of the documents; a path names its lines in errors.
        name: of the documents in errors.

    Raises:
        DataError: a document has several labels; none has one.
    """
    lengths = documents.labels.list.len().fill_null(0).to_numpy()
    if (lengths > 1).any():
        row = int((lengths > 1).argmax())
        place = f"{name}: row {row}" if not isinstance(source, str | Path) else File(Path(source)).place(row)
        raise DataError(
            f"{place}: {lengths[row]} labels ({', '.join(documents.labels[row].to_list()[:3])}), but data.single "
            "expects one per document. Remove the others, or fit without it; `separator=` separates labels in a field"
        )
    labelled = np.flatnonzero(lengths)
    if len(labelled) == 0:
        raise DataError(f"{name}: no document has a label. Name the column of the labels with `labels=`")
    if len(labelled) == len(documents):
        return documents, 0
    left_out = len(documents) - len(labelled)
    logger.warning("%s: %s of %s documents have no label and are left out", name, f"{left_out:,}", f"{len(lengths):,}")
    return documents.select(labelled), left_out


def check_classes(names: list[str], counts: Tensor) -> dict[str, int]:
    """Return {"single_documents": classes with one training document}, which are logged.

    Args:
        names: of the L classes.
        counts: (L,) training documents of each.

    Raises:
        DataError: there is only one class.
    """
    if len(names) < 2:
        raise DataError(
            f"labels: all documents have the one class {names[0]!r}, and there is nothing to distinguish. "
            "Give documents of two classes or more"
        )
    number = int((counts == 1).sum())
    if number:
        logger.warning(
            "%s of %s classes have one training document, such as %r; no other document validates them",
            f"{number:,}",
            f"{len(names):,}",
            names[int((counts == 1).int().argmax())],
        )
    return {"single_documents": number}


def check_target(labels: Any, fitted: Classes, name: str) -> None:
    """Check that labels, called `name`, are one per document and of the type of the training labels.

    Args:
        labels: of other texts. Lists of labels are allowed if training read them from a file or as texts.
        fitted: the classes of training.

    Raises:
        DataError: they are not one per document, or of another type.
    """
    given = is_one_label(labels)
    if not given and fitted.kind != "text":
        raise DataError(f"{name}: training labels are one per document and these are not. {HOW}")
    if given and fitted.kind not in ("text", kind := read_classes(labels)[1]):
        raise DataError(f"{name}: training labels are of type {fitted.kind} and these of type {kind}. {HOW}")
