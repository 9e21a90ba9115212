"""Which column is the text, which the labels, the id and the group."""

from __future__ import annotations

from dataclasses import dataclass

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.files import File
from hyperfocal.errors import DataError, did_you_mean

KNOWN_TEXTS = (("text",), ("title", "body"), ("content",), ("description",))  # the first of which one is there
KNOWN_LABELS = ("labels", "label", "tags", "categories")


@dataclass(frozen=True)
class TextColumns:
    """The names of the columns; "" where there is none."""

    text: tuple[str, ...]
    labels: str
    id: str
    group: str


def find_text_columns(found: list[str], settings: TextDataSettings, file: File, *, need_labels: bool) -> TextColumns:
    """Return the columns that the settings name, else those of known names.

    Raises:
        DataError: a named column that is not there; no telling which is the text, or, if needed, the labels;
            one column for both; a name that the header has twice.
    """
    for flag in ("text", "labels", "id", "group"):
        value = getattr(settings, flag)
        for name in filter(None, value if isinstance(value, tuple) else (value,)):
            _refuse_absent(name, flag, found, file)
    lower = {name.lower(): name for name in reversed(found)}
    columns = TextColumns(
        settings.text or _known_text(lower),
        settings.labels or next((lower[name] for name in KNOWN_LABELS if name in lower), ""),
        settings.id or lower.get("id", ""),
        settings.group,
    )
    if not columns.text:
        raise _untold("text", found, file)
    if need_labels and not columns.labels:
        raise _untold("labels", found, file)
    _refuse_twice(columns, found, file)
    return columns


def _known_text(lower: dict[str, str]) -> tuple[str, ...]:
    groups = (tuple(lower[name] for name in names if name in lower) for names in KNOWN_TEXTS)
    return next(filter(None, groups), ())


def _refuse_absent(name: str, flag: str, found: list[str], file: File) -> None:
    if name not in found:
        raise DataError(
            f"{file}: no column '{name}' (--{flag}).{did_you_mean(name, found)} Columns found: {', '.join(found)}"
        )


def _untold(flag: str, found: list[str], file: File) -> DataError:
    known = ", ".join(KNOWN_LABELS if flag == "labels" else (name for names in KNOWN_TEXTS for name in names))
    hint = did_you_mean(flag, found)
    return DataError(
        f"{file}: cannot tell which column is the {flag}; none is called {known}.{hint} "
        f"Name it with --{flag} COLUMN. Columns found: {', '.join(found)}"
    )


def _refuse_twice(columns: TextColumns, found: list[str], file: File) -> None:
    if columns.labels in columns.text:
        raise DataError(f"{file}: column '{columns.labels}' cannot be both --text and --labels. Name one for each")
    for name in filter(None, (*columns.text, columns.labels, columns.id, columns.group)):
        if f"{name}_duplicated_0" in found:  # so polars renames the second
            raise DataError(f"{file}: the header has column '{name}' twice. Rename one of them")
