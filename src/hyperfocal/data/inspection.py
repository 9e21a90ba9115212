"""Read a source as `fit` does, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.blocks import read_blocks
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.files import File
from hyperfocal.data.input_columns import as_names
from hyperfocal.data.log_columns import KNOWN_NAMES
from hyperfocal.data.logs import as_log
from hyperfocal.data.matrices import file_documents, is_matrix_file
from hyperfocal.data.readers import read_source
from hyperfocal.data.reading import ReadingPlan
from hyperfocal.data.text_columns import find_text_columns
from hyperfocal.data.text_lines import TEXT_READERS
from hyperfocal.errors import ConfigError, DataError

FIRST_ROWS = 1_000
Job = Literal["recommend", "classify"]


def inspect(
    source: Any,
    job: Job | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    order: str | None = None,
    text: str | Sequence[str] | None = None,
    fields: str | Sequence[str] | None = None,
    vectors: str | Sequence[str] | None = None,
    labels: str | None = None,
    separator: str | None = None,
    id: str | None = None,
    group: str | None = None,
    weight: str | None = None,
    unknown: str | None = None,
) -> ReadingPlan:
    """Return the plan by which `fit` would read a source: columns, uses, types, missing values, and ignored columns.

    Args:
        source: path, or frame of any library.
        job: "recommend" or "classify". None: the job of the named columns, else classify if the source has a text and
            labels, else recommend.
        user, item, order: columns of a log, as in `Recommender`.
        text, fields, vectors, labels, separator, id, group, weight, unknown: columns of documents, as in
            `MultiLabelClassifier`.

    Raises:
        DataError: the source cannot be read as training data of the job.
        ConfigError: another job; columns of the other job are named.

    >>> plan = inspect({"visitor": ["a", "a"], "sku": [1, 2], "ts": [10, 20], "price": [2.5, None]})
    >>> [(column.name, column.use, column.type) for column in plan.columns], plan.ignored
    ([('visitor', 'user', 'text'), ('sku', 'item', 'integer'), ('ts', 'order', 'position')], ('price',))
    """
    named = map(as_names, (text, fields, vectors))
    texts, given, lists = (() if names is None else tuple(names) for names in named)  # an array has no truth
    log = DataSettings(user=user or "", item=item or "", order=order or "")
    documents = TextDataSettings(
        text=texts,
        fields=given,
        vectors=lists,
        labels=labels or "",
        separator=separator or "",
        id=id or "",
        group=group or "",
        weight=weight or "",
        unknown=unknown or "",
    )
    settings: dict[str, DataSettings | TextDataSettings] = {"recommend": log, "classify": documents}
    extreme = is_matrix_file(source)
    job = job or ("classify" if extreme else _job_of(source, log, documents))
    if job not in settings:
        raise ConfigError(f"`job=` is {job!r}. Expected one of {', '.join(settings)}")
    if any(own != type(own)() for name, own in settings.items() if name != job):
        raise ConfigError(f"a column of the other job is named, but the job is {job}. Leave it out")
    if job == "recommend":
        return as_log(source, log).plan
    return file_documents(source).plan if extreme else as_documents(source, documents).plan


def _job_of(source: Any, log: DataSettings, documents: TextDataSettings) -> Job:
    """Return the job whose columns are named, else the job whose columns the source has."""
    if log != DataSettings():
        return "recommend"
    if documents != TextDataSettings():
        return "classify"
    header, file = _header(source)
    names = {name.lower() for name in header}
    if all(names & {*KNOWN_NAMES[role]} for role in ("user", "item")):
        return "recommend"
    try:
        find_text_columns(header, documents, file, "texts")
    except DataError:
        return "recommend"
    return "classify"  # also without labels: that no column is called so is then the error


def _header(source: Any) -> tuple[list[str], File]:
    """Return the columns of a source, of a file as documents; of a large file only the first rows are read."""
    if not isinstance(source, str | Path):
        frame, file = read_source(source, Documents)
        return frame.columns, file
    try:
        block = next(read_blocks(Path(source), FIRST_ROWS, readers=TEXT_READERS, row="row"))
    except DataError:  # no documents; if it is no log either, reading it as one says so
        return [], File(Path(source))
    return block.frame.columns, block.file
