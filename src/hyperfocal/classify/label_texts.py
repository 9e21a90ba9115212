"""The texts of labels: their names, with those above them in a tree, or a file of names and descriptions."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from hyperfocal.data.columns import read_text
from hyperfocal.data.files import File
from hyperfocal.data.readers import read_source
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.errors import DataError
from hyperfocal.parts import files_of
from hyperfocal.report.format import quantity

NAMES, OFF = "names", "off"
GivenText = tuple[str | None, str]  # name and description
COLUMNS = ("label", "name", "description")  # of a file; the first is needed, and one of the others
LETTER = re.compile(r"[^\W\d_]")
APART = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")

logger = logging.getLogger("hyperfocal")


@dataclass(frozen=True)
class LabelTexts:
    """The texts of L labels.

    Attributes:
        names: (L) whose words are looked for in documents; "" for none.
        descriptions: (L) which only an encoder reads, after the name; "" for none.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...]

    @property
    def whole(self) -> list[str]:
        """Names and descriptions together, as an encoder reads them: `role::app-data` is "role app data"."""
        spaced = [APART.sub(" ", name).strip() for name in self.names]
        return [". ".join(filter(None, pair)) for pair in zip(spaced, self.descriptions, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return the value that `from_json` reads."""
        return {"names": list(self.names), "descriptions": list(self.descriptions)}

    @classmethod
    def from_json(cls, value: Any) -> LabelTexts:
        """Build from `to_json`'s value; raise KeyError, TypeError or ValueError if it is not one."""
        names, descriptions = (tuple(map(str, value[name])) for name in ("names", "descriptions"))
        if len(names) != len(descriptions):
            raise ValueError(f"{len(names):,} names and {len(descriptions):,} descriptions")
        return cls(names, descriptions)


def label_texts(source: str, labels: Sequence[str], taxonomy: Taxonomy | None) -> LabelTexts | None:
    """Return the texts of labels; None: they have none.

    Args:
        source: "names"; "off"; or the path of a table with a column label and a column name, description or both.
        labels: L labels.
        taxonomy: gives each of its labels its name and the names above it. None: a label is its name.

    Raises:
        DataError: as in `read_label_texts`.
    """
    if source == OFF:
        return None
    texts = LabelTexts(tuple(_name(label, taxonomy) for label in labels), ("",) * len(labels))
    if source != NAMES:
        texts = _with_file(texts, _read_source(source), labels, source)
    return texts if any(LETTER.search(name) for name in texts.whole) else None


def check_label_texts(source: str) -> None:
    """Raise DataError if label texts are to come from a file that cannot be read; see `read_label_texts`."""
    if source not in (NAMES, OFF):
        _read_source(source)


def _read_source(source: str) -> dict[str, GivenText]:
    if not source or not (Path(source).exists() or files_of(Path(source))):
        raise DataError(
            f"features.label_texts = {source!r}: no such file. Expected names, off, or a table with the columns label, "
            "name and description"
        )
    return read_label_texts(source)


def _name(label: str, taxonomy: Taxonomy | None) -> str:
    inside = taxonomy is not None and label in taxonomy.ids
    return taxonomy.path_name(label) if taxonomy is not None and inside else label


def says_nothing(text: tuple[str, str]) -> bool:
    """Return whether neither the name nor the description of a label has a letter."""
    return not any(LETTER.search(each) for each in text)


def read_label_texts(source: Any) -> dict[str, GivenText]:
    """Return label -> (name, description) of a table; "" for an empty cell, and None without a column of names.

    Args:
        source: path or frame, with a column label and a column name, description or both.

    Raises:
        DataError: no such file, an unreadable one, no column `label`, neither `name` nor `description`, an empty or
            repeated label.
    """
    frame, file = read_source(source, LabelTexts, row="label")
    _check_columns(frame, file)
    columns = [read_text(frame[name], file).to_list() if name in frame.columns else None for name in COLUMNS]
    labels, names, descriptions = columns
    assert labels is not None, "_check_columns"
    texts: dict[str, GivenText] = {}
    for row, label in enumerate(labels):
        if not label or label in texts:
            problem = f"label {label!r} is already in the file" if label else "no label"
            raise DataError(f"{file.place(row)}: {problem}. Give one row per label")
        name = None if names is None else (names[row] or "").strip()
        texts[label] = (name, "" if descriptions is None else (descriptions[row] or "").strip())
    return texts


def _check_columns(frame: pl.DataFrame, file: File) -> None:
    if "label" not in frame.columns or not {"name", "description"} & set(frame.columns):
        raise DataError(
            f"{file}: columns are {', '.join(frame.columns)}. Expected `label`, and `name`, `description` or both"
        )


def _with_file(texts: LabelTexts, given: dict[str, GivenText], labels: Sequence[str], source: str) -> LabelTexts:
    """Return the texts with those of a file in place of names; log how many labels it does not match."""
    pairs = [given.get(label, (None, "")) for label in labels]
    names = tuple(name if own is None else own for (own, _), name in zip(pairs, texts.names, strict=True))
    texts = replace(texts, names=names, descriptions=tuple(text for _, text in pairs))
    oddities = {
        "that training does not have": sorted(given.keys() - set(labels)),
        "of training without a row": [label for label in labels if label not in given],
        "with an empty text": [label for label in labels if label in given and not any(given[label])],
        "with the name of an earlier label": _repeated(texts, labels),
    }
    for oddity, rows in oddities.items():
        if rows:
            logger.warning("%s: %s %s, such as %r", source, quantity(len(rows), "label"), oddity, rows[0])
    return texts


def _repeated(texts: LabelTexts, labels: Sequence[str]) -> list[str]:
    """Return the labels whose name an earlier label has too, except for case and punctuation."""
    first: dict[str, str] = {}
    names = [APART.sub(" ", name).strip().casefold() for name in texts.names]
    return [label for label, name in zip(labels, names, strict=True) if name and first.setdefault(name, label) != label]
