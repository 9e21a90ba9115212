"""Batch prediction over a Ray Dataset, with the answers of `predict`: each actor loads the run once.

import ray
from hyperfocal.export.ray_data import BatchPredictor

documents = ray.data.read_json("new.jsonl")
options = {"fn_constructor_args": ("run",), "batch_format": "pyarrow", "compute": ray.data.ActorPoolStrategy(size=2)}
documents.map_batches(BatchPredictor, **options).write_parquet("predictions")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.files import with_pairs
from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.documents import as_documents
from hyperfocal.data.logs import as_log
from hyperfocal.errors import DataError
from hyperfocal.export.export import load_run
from hyperfocal.recommend.recommender import Recommender

if TYPE_CHECKING:
    import pyarrow as pa


class BatchPredictor:
    """Predicts a batch of rows per call, as `map_batches` of Ray Data expects.

    Documents need the columns that the run was fitted on, and an id; the answer has id, labels, scores and known as
    `classify predict` writes them to Parquet. Users need two columns, the id and a list of items, oldest first, with
    one row per user because Ray splits batches anywhere; the answer has the rows of `recommend predict`.

    Args:
        run: run folder, on a disk that every node sees.
        k: `recommend`: items to return; None: as many as the run was trained to predict.
        repeats: `recommend`: whether items of the history may be recommended.

    Raises:
        RunError: no run, or a damaged one.
    """

    def __init__(self, run: str | Path, *, k: int | None = None, repeats: bool = False) -> None:
        self._trained, self._k, self._repeats = load_run(Path(run)), k, repeats

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the predictions for a batch.

        Raises:
            DataError: the batch is not an Arrow table, has no id, or rows that are not users; and those of `predict`.
        """
        frame = pl.from_arrow(batch) if hasattr(batch, "schema") else None
        if not isinstance(frame, pl.DataFrame):
            raise DataError(f"the batch is a {type(batch).__name__}. Give map_batches batch_format='pyarrow'")
        if isinstance(self._trained, Recommender):
            return _recommended(self._trained, frame, self._k, self._repeats).to_arrow()
        return _classified(self._trained, frame).to_arrow()


def _classified(classifier: MultiLabelClassifier, frame: pl.DataFrame) -> pl.DataFrame:
    documents = as_documents(frame, classifier.fit_.model.reading, need="texts")
    if documents.numbered:
        raise DataError(
            f"the batch has no id in the columns {', '.join(frame.columns)}, and rows of a Ray Dataset have no number. "
            "Add a column id"
        )
    return with_pairs(classifier.predict_documents(documents))


def _recommended(recommender: Recommender, frame: pl.DataFrame, k: int | None, repeats: bool) -> pl.DataFrame:
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List)]
    if len(frame.columns) != 2 or len(lists) != 1:
        raise DataError(
            f"the batch has the columns {frame.schema}. Give two, a user and a list of the user's items, oldest first: "
            "with one row per event, Ray would split users between batches"
        )
    owners, histories = frame.get_column(next(name for name in frame.columns if name not in lists)), frame[lists[0]]
    empty = histories.is_null() | (histories.list.len() == 0)
    if empty.any() or owners.n_unique() != len(owners):
        wrong = owners.filter(empty | owners.is_duplicated())[0]
        raise DataError(
            f"user {wrong!r} of the batch has no items, or two rows. Give one row per user, with at least one item"
        )
    log = as_log(frame.explode(*lists), DataSettings(user=owners.name, item=lists[0]), recommender.vocabulary_.kind)
    predictions: pl.DataFrame = recommender.predict(log, k, repeats=repeats).frame
    return predictions
