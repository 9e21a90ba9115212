"""The text, label, id and group columns of documents: find them by name, or by the plan of a run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.columns import check_column, check_unique
from hyperfocal.data.field_columns import split_kind
from hyperfocal.data.files import File
from hyperfocal.data.ids import IdKind
from hyperfocal.data.input_columns import DOCUMENT_KINDS
from hyperfocal.data.reading import ReadingPlan, Use, planned_column, same_column
from hyperfocal.errors import DataError, columns_of, did_you_mean

KNOWN_TEXTS = (("text",), ("title", "body"), ("content",), ("description",))  # the first that has a column
KNOWN_LABELS = ("labels", "label", "tags", "categories")
COUNTING: dict[Use, str] = {"weight": "weights", "unknown": "unknown labels"}
Need = Literal["all", "labels", "texts"]  # to fit, to score, to predict
TextReading = TextDataSettings | ReadingPlan  # names of columns to find, or the plan of a run

logger = logging.getLogger("hyperfocal")


@dataclass(frozen=True)
class TextColumns:
    """The columns of documents."""

    text: tuple[str, ...]  # names; (): no texts, but fields or vectors
    labels: str  # its name; "": labels are not read
    id: str  # "": documents are numbered
    group: str  # "": no groups
    separator: str = ""  # of labels in a text; "": as the column shows
    id_kind: IdKind | None = None  # None: as the column shows
    only_lists: bool = False  # whether labels are lists in the plan, so that nothing says where to split a text
    fields: tuple[tuple[str, str], ...] = ()  # names and kinds; "": the kind that the values suggest
    vectors: tuple[tuple[str, int], ...] = ()  # names and lengths; 0: the length of the first vector
    planned: bool = False  # whether the plan of a run names them
    weight: str = ""  # "": no weights
    unknown: str = ""  # of labels that nobody annotated; "": all are annotated


def text_columns(header: list[str], reading: TextReading, file: File, need: Need) -> TextColumns:
    """Return the columns to read in a file; errors as in `find_text_columns` and `text_columns_by_plan`."""
    if isinstance(reading, TextDataSettings):
        return find_text_columns(header, reading, file, need)
    if "lines" in (reading.form, file.kind) and not has_columns(reading):  # lines name no columns
        columns = find_text_columns(header, TextDataSettings(), file, need)
        return columns if file.kind == "lines" else _with_separator(columns, reading)
    return text_columns_by_plan(header, reading, file, need)


def with_planned_names(frame: pl.DataFrame, reading: TextReading) -> pl.DataFrame:
    """Return a frame whose fields and vectors have the letter case of the plan: models know them by these names."""
    if not isinstance(reading, ReadingPlan):
        return frame
    for name in (*reading.names("field"), *reading.names("vector")):
        column = same_column(name, frame.columns)
        if column and column != name:
            frame = frame.rename({column: name})
    return frame


def find_text_columns(header: list[str], settings: TextDataSettings, file: File, need: Need) -> TextColumns:
    """Return the columns that the settings name, else columns of known names.

    Raises:
        DataError: a named column that does not exist; no column for the text, or, if needed, the labels; one column
            for both; a name that the header has twice.
    """
    named = {"text": settings.text, "labels": (settings.labels,), "id": (settings.id,), "group": (settings.group,)}
    named |= {"weight": (settings.weight,), "unknown": (settings.unknown,)}
    for name in settings.vectors:
        check_column(name, header, file, "`vectors=`")
    required = {"all": tuple(named), "labels": ("text", "labels"), "texts": ("text",)}[need]
    for option in required:
        for name in filter(None, named[option]):
            check_column(name, header, file, f"`{option}=`")
    lower = {name.lower(): name for name in reversed(header)}
    known_labels = next((lower[name] for name in KNOWN_LABELS if name in lower), "")
    fields = tuple(split_kind(name, header, str(file), DOCUMENT_KINDS) for name in settings.fields)
    inputs = {*(name for name, _ in fields), *settings.vectors}
    columns = TextColumns(
        settings.text or tuple(name for name in _known_text(lower) if name not in inputs),
        "" if need == "texts" else settings.labels or known_labels,
        settings.id if settings.id in header else lower.get("id", ""),
        settings.group if settings.group in header else "",
        settings.separator,
        fields=fields,
        vectors=tuple((name, 0) for name in settings.vectors),
        weight=settings.weight if settings.weight in header and need != "texts" else "",
        unknown=settings.unknown if settings.unknown in header and need != "texts" else "",
    )
    if not (columns.text or columns.fields or columns.vectors):
        raise _unknown("text", header, file)
    if need != "texts" and not columns.labels:
        raise _unknown("labels", header, file)
    return _checked(columns, header, file)


def text_columns_by_plan(header: list[str], plan: ReadingPlan, file: File, need: Need) -> TextColumns:
    """Return the columns of a file that a run reads.

    Raises:
        DataError: a column of the plan that is needed is missing; a name that the header has twice.
    """
    text = tuple(planned_column(plan, "text", name, header, file) for name in plan.names("text"))
    labels = "" if need == "texts" else planned_column(plan, "labels", plan.name("labels"), header, file)
    group = plan.name("group")
    if group and need == "all":
        planned_column(plan, "group", group, header, file)
    weight, unknown = ("" if need == "texts" else _planned_counting(plan, use, header, file) for use in COUNTING)
    columns = TextColumns(
        text,
        labels,
        same_column(plan.name("id") or "id", header),
        same_column(group, header) if group else "",
        fields=tuple(
            (planned_column(plan, "field", column.name, header, file), column.type)
            for column in plan.columns
            if column.use == "field"
        ),
        vectors=tuple(
            (planned_column(plan, "vector", column.name, header, file), int(column.type))
            for column in plan.columns
            if column.use == "vector"
        ),
        planned=True,
        weight=weight,
        unknown=unknown,
    )
    return _checked(_with_separator(columns, plan), header, file)


def _planned_counting(plan: ReadingPlan, use: Use, header: list[str], file: File) -> str:
    """Return the column of weights or of unknown labels; "" if the file, or the plan, has none."""
    name = plan.name(use)
    column = same_column(name, header) if name else ""
    if name and not column:
        logger.info("%s: no column '%s'; without %s every document counts in full", file, name, COUNTING[use])
    return column


def _with_separator(columns: TextColumns, plan: ReadingPlan) -> TextColumns:
    kind = plan.kind("id") if plan.name("id") else None
    only_lists = bool(plan.name("labels")) and not plan.separator
    return replace(columns, separator=plan.separator, id_kind=kind, only_lists=only_lists)


def _checked(columns: TextColumns, header: list[str], file: File) -> TextColumns:
    twice = [name for name in columns.text if columns.text.count(name) > 1]
    if twice:
        raise DataError(f"{file}: `text=` names column '{twice[0]}' twice. Name it once")
    if columns.labels in columns.text:
        raise DataError(f"{file}: column '{columns.labels}' cannot be both `text=` and `labels=`. Name one for each")
    inputs = [name for name, _ in (*columns.fields, *columns.vectors)]
    _check_inputs(inputs, columns, file)
    _check_counting(inputs, columns, file)
    others = (columns.labels, columns.id, columns.group, columns.weight, columns.unknown)
    check_unique(filter(None, (*columns.text, *inputs, *others)), header, file)
    return columns


def has_columns(plan: ReadingPlan) -> bool:
    """Return whether a plan reads fields or vectors."""
    return bool(plan.names("field") or plan.names("vector"))


def _check_inputs(inputs: list[str], columns: TextColumns, file: File) -> None:
    """Raise DataError if a column is a field or vector twice, or is also the column of the labels or of a text."""
    twice = next((name for name in inputs if inputs.count(name) > 1), "")
    if twice:
        raise DataError(f"{file}: column '{twice}' is named twice as `fields=` or `vectors=`. Name it once")
    both = next((name for name in inputs if name in columns.text), "")
    if both:
        raise DataError(
            f"{file}: column '{both}' cannot be both `text=` and one of `fields=` or `vectors=`. Name it once"
        )
    if columns.labels and columns.labels in inputs:
        raise DataError(
            f"{file}: column '{columns.labels}' cannot be both `labels=` and one of `fields=` or `vectors=`: the model "
            "would read its answer. Name one for each"
        )


def _check_counting(inputs: list[str], columns: TextColumns, file: File) -> None:
    """Raise DataError if the column of weights or of unknown labels is also read as anything else."""
    options = dict.fromkeys(columns.text, "text") | dict.fromkeys(inputs, "fields` or `vectors")
    for option, name in (("labels", columns.labels), ("weight", columns.weight), ("unknown", columns.unknown)):
        if option != "labels" and name and name in options:
            raise DataError(
                f"{file}: column '{name}' cannot be both `{option}=` and `{options[name]}=`. Name one for each"
            )
        options[name] = option


def _known_text(lower: dict[str, str]) -> tuple[str, ...]:
    groups = (tuple(lower[name] for name in names if name in lower) for names in KNOWN_TEXTS)
    return next(filter(None, groups), ())


def _unknown(option: str, header: list[str], file: File) -> DataError:
    known = ", ".join(KNOWN_LABELS if option == "labels" else (name for names in KNOWN_TEXTS for name in names))
    hint = did_you_mean(option, header)
    return DataError(
        f"{file}: cannot tell which column is the {option}; none is called {known}.{hint} "
        f"Name it with `{option}=`. {columns_of(header)}"
    )
