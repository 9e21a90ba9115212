"""Items that are alike, and the vectors of items and users for an index of nearest neighbors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hyperfocal.config.numbers import as_whole
from hyperfocal.data.ids import id_text
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.metrics.ranking import BLOCK_NUMBERS, stable_top_k
from hyperfocal.models.baselines import Baseline
from hyperfocal.models.sequence_networks import Network
from hyperfocal.recommend.ranker import Ranker
from hyperfocal.sequences import Sequences

Alike = list[list[tuple[str | int, float]]]


@torch.inference_mode()
def similar_items(ranker: Ranker, items: Iterable[Any], k: int) -> Alike:
    """Return the k items most like each given one, see `Recommender.similar`."""
    similarity, most = ranker.similarity, len(ranker.vocabulary) - 1
    if similarity is None:
        raise ConfigError("similar items need item vectors or the baseline item_knn, and this run has neither")
    depth = as_whole(k)
    if depth is None or not 1 <= depth <= most:
        raise ConfigError(f"k = {k!r} is not allowed. Expected 1 to {most:,}, the number of other items")
    numbers, ids = _numbers(ranker, items), ranker.vocabulary.values
    lists: Alike = []
    for block in numbers.split(max(BLOCK_NUMBERS // (most + 1), 1)):
        rows = similarity.rows(block)
        rows[torch.arange(len(block)), block] = -torch.inf
        best, places = stable_top_k(rows, depth)
        lists += [
            [(ids[item], round(score, 6)) for item, score in zip(*row, strict=True)]
            for row in zip(places.tolist(), best.tolist(), strict=True)
        ]
    return lists


def _numbers(ranker: Ranker, items: Iterable[Any]) -> Tensor:
    """Return the numbers of items by their ids; raise DataError for an unknown one."""
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise DataError(f"items: {items!r:.60} is not a list of item ids. Write [{items!r:.60}]")
    vocabulary, texts = ranker.vocabulary, []
    for item in items:
        texts.append(id_text(item, vocabulary.kind))
        if texts[-1] not in vocabulary.numbers:
            raise DataError(f"item {item!r} is not an item of the run. Check its id")
    return torch.tensor([vocabulary.numbers[text] for text in texts], dtype=torch.int64)


@torch.inference_mode()
def item_vectors(ranker: Ranker) -> pl.DataFrame:
    """Return the columns item and vector, see `Recommender.item_vectors`."""
    weight, bias = _network(ranker).output()
    vectors = torch.cat([weight, bias[:, None]], 1).float().cpu().numpy()
    ids = pl.Series("item", ranker.vocabulary.values)
    return pl.DataFrame([ids, pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))])


@torch.inference_mode()
def user_vectors(ranker: Ranker, histories: Sequences) -> NDArray[np.float32]:
    """Return (U, D + 1) vectors, see `Recommender.user_vectors`."""
    network, longest = _network(ranker), ranker.settings.data.history
    size = max(BLOCK_NUMBERS // (longest * ranker.settings.model.embedding_width), 16)
    blocks = [
        network.hidden(histories.block(start, start + size).last(longest).to(network.bias.device))
        for start in range(0, len(histories), size)
    ]
    hidden = torch.cat(blocks) if blocks else torch.empty(0, network.output()[0].shape[1])
    return functional.pad(hidden.float().cpu(), (0, 1), value=1.0).numpy()


def _network(ranker: Ranker) -> Network:
    if isinstance(ranker.model, Baseline):
        raise ConfigError(f"{ranker.settings.model.name} has no vectors: only networks do. Fit a network")
    return ranker.model
