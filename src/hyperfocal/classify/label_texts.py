"""The texts of labels: their names, with those above them in a tree, or a file of names and descriptions."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from hyperfocal.data.columns import read_text
from hyperfocal.data.files import File
from hyperfocal.data.readers import read_source
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.errors import DataError

NAMES, OFF = "names", "off"
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
        """Build from `to_json`'s value."""
        return cls(tuple(map(str, value["names"])), tuple(map(str, value["descriptions"])))


def label_texts(source: str, labels: Sequence[str], taxonomy: Taxonomy | None) -> LabelTexts | None:
    """Return the texts of labels; None: they have none.

    Args:
        source: "names"; "off"; or the path of a table with a column label and a column name, description or both.
        labels: L labels.
        taxonomy: gives each of its labels its name and the names above it. None: a label is its name.

    Raises:
        DataError: the file cannot be read, lacks a column, or has one label twice.
    """
    if source == OFF:
        return None
    texts = LabelTexts(tuple(_name(label, taxonomy) for label in labels), ("",) * len(labels))
    if source != NAMES:
        texts = _with_file(texts, read_label_texts(source), labels, source)
    return texts if any(LETTER.search(name) for name in texts.whole) else None


def _name(label: str, taxonomy: Taxonomy | None) -> str:
    inside = taxonomy is not None and label in taxonomy.ids
    return taxonomy.path_name(label) if taxonomy is not None and inside else label


def says_nothing(text: tuple[str, str]) -> bool:
    """Return whether neither the name nor the description of a label has a letter."""
    return not any(LETTER.search(each) for each in text)


def read_label_texts(source: Any) -> dict[str, tuple[str, str]]:
    """Return label -> (name, description) of a table; "" for a missing one, and the label for a missing name column.

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
    texts: dict[str, tuple[str, str]] = {}
    for row, label in enumerate(labels):
        if not label or label in texts:
            problem = f"label {label!r} is already in the file" if label else "no label"
            raise DataError(f"{file.place(row)}: {problem}. Give one row per label")
        name = label if names is None else (names[row] or "").strip()
        texts[label] = (name, "" if descriptions is None else (descriptions[row] or "").strip())
    return texts


def _check_columns(frame: pl.DataFrame, file: File) -> None:
    if "label" not in frame.columns or not {"name", "description"} & set(frame.columns):
        raise DataError(
            f"{file}: columns are {', '.join(frame.columns)}. Expected `label`, and `name`, `description` or both"
        )


def _with_file(texts: LabelTexts, given: dict[str, tuple[str, str]], labels: Sequence[str], source: str) -> LabelTexts:
    """Return the texts with those of a file in place of names; log how many labels it does not match."""
    unknown, missing = given.keys() - set(labels), [label for label in labels if label not in given]
    empty = [label for label in labels if label in given and not any(given[label])]
    for problem, rows in (("are not labels of training", sorted(unknown)), ("have an empty text", empty)):
        if rows:
            logger.warning("%s: %s labels %s, such as %r", source, f"{len(rows):,}", problem, rows[0])
    if missing:
        logger.warning("%s: %s labels of training are missing, such as %r", source, f"{len(missing):,}", missing[0])
    pairs = [given.get(label, (name, "")) for label, name in zip(labels, texts.names, strict=True)]
    return replace(texts, names=tuple(name for name, _ in pairs), descriptions=tuple(text for _, text in pairs))
