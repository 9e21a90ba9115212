"""Adding new events, users and items to a recommender, without starting over."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.examples import Holdout
from hyperfocal.data.item_table import ItemTable, read_items
from hyperfocal.data.logs import Log, as_log
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import set_threads
from hyperfocal.metrics.ranking import Scorer
from hyperfocal.models.baselines import Baseline, refuse_size
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.recommend.compare import evidence_on, score_ranker, score_validation
from hyperfocal.recommend.item_features import as_features, with_popularity
from hyperfocal.recommend.network import train_network, widened_network
from hyperfocal.recommend.prepare import Prepared, cut_of, training_examples
from hyperfocal.sequences import Sequences
from hyperfocal.training.trainer import Progress

if TYPE_CHECKING:
    from hyperfocal.recommend.recommender import Recommender


@dataclass(frozen=True, eq=False)
class Merged:
    """Old and new events together.

    Attributes:
        vocabulary: the old items, then the new ones.
        users: the old users, then the new ones.
        events: what they did; of an old user the new events follow the old ones.
        added: (U,) int64, how many of each user's events are new.
    """

    vocabulary: Vocabulary
    users: pl.Series
    events: Sequences
    added: NDArray[np.int64]


def merge(recommender: Recommender, log: Log) -> Merged:
    """Return what a recommender was trained on, and a log, together."""
    vocabulary = recommender.vocabulary_.extended(log.items)
    old = recommender.users_
    users = pl.concat([old, log.users.filter(~log.users.is_in(old.implode())).alias("user")])
    numbers = log.users.cast(pl.Enum(users)).to_physical().cast(pl.Int64).to_numpy()
    owners = np.concatenate([recommender.events_.users.numpy(), np.repeat(numbers, log.lengths)])
    items = torch.cat([recommender.events_.items, vocabulary.encode(log.items)])
    order = torch.from_numpy(np.argsort(owners, kind="stable"))
    offsets = torch.from_numpy(np.bincount(owners, minlength=len(users))).cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), offsets])
    added = np.zeros(len(users), dtype=np.int64)
    added[numbers] = log.lengths
    return Merged(vocabulary, users, Sequences(items[order], offsets, len(vocabulary)), added)


def updated(
    recommender: Recommender, log: Any, items: Any, epochs: int, watch: Callable[[Progress, int], None]
) -> Recommender:
    """Return what a recommender becomes with the events of a log, as `Recommender.update` says it; itself stays."""
    set_threads(recommender.settings_.train.threads)
    began, log = perf_counter(), as_log(log, recommender.settings_.data)
    merged = merge(recommender, log)
    data = prepare_update(recommender, log, merged, items)
    refuse_size(recommender.settings_.model.name, len(data.vocabulary))
    found = copy(recommender)
    found.adopt(data)
    _go_on(found, data, gentler(recommender.settings_, epochs), watch)
    found.metrics_ = score_validation(found, data) | {"before": _score_before(recommender, data)}
    found.evidence_ = evidence_on(found, data.valid, began=began)
    found.events_, found.fingerprint_ = merged.events, data.fingerprint()
    return found


def _go_on(
    recommender: Recommender, data: Prepared, settings: RecommendSettings, watch: Callable[[Progress, int], None]
) -> None:
    if isinstance(recommender.model_, Baseline):
        recommender.model_ = recommender.baselines_[settings.model.name]
    else:
        network = widened_network(recommender.model_, settings, data)
        recommender.model_, recommender.history_ = train_network(
            data, settings, None, resume=False, watch=watch, network=network
        )


def _score_before(recommender: Recommender, data: Prepared) -> dict[str, Any]:
    """Score what the recommender is until now on the users of an update."""
    size = len(data.vocabulary)
    counts = torch.bincount(data.train.items, minlength=size)
    with torch.inference_mode():
        scored = score_ranker(as_before(recommender, size), data.valid, counts, k=recommender.settings_.data.next)
    return scored.to_dict()


def refuse_update(recommender: Recommender, items: Any) -> None:
    """Raise an error for a recommender that cannot go on.

    Raises:
        RunError: the run has not kept what it was trained on.
        ConfigError: it was made to be measured; or a table of items for one that reads none.
    """
    if recommender.streamed_:
        raise RunError("this run learnt from a streamed log, of which it kept no events to add to. Fit it again")
    if not len(recommender.users_):
        raise RunError("this run was made by an earlier version, which kept no events to add to. Fit it again")
    if recommender.settings_.data.protocol == "leave-one-out":
        raise ConfigError(
            "this run left each user's last two items out, to be measured on them: what came next would follow a gap. "
            "Fit one without --protocol leave-one-out to go on from"
        )
    if items is not None and recommender.features_ is None:
        raise ConfigError("--items: this run has learnt no features of items. Leave it out, or fit again with --items")


def prepare_update(recommender: Recommender, log: Log, merged: Merged, items: Any) -> Prepared:
    """Return what the recommender learns from now: the users of the log, and as many others, so that it forgets none.

    Of the log's users a share, `data.valid_fraction`, validates: their new events do not teach this time.

    Raises:
        DataError: fewer than two users of the log have an item to validate on; nothing to learn from.
    """
    settings = recommender.settings_
    draw = np.random.default_rng([settings.seed, len(merged.events.items)])  # other users at each update
    valid, fresh = _split(merged, settings, draw)
    lengths = merged.events.lengths.numpy().copy()
    lengths[valid] -= merged.added[valid]
    train = merged.events.first(torch.from_numpy(lengths))
    others = draw.permutation(np.flatnonzero(merged.added == 0))[: len(fresh)]
    examples = training_examples(train.select(torch.from_numpy(np.sort(np.concatenate([fresh, others])))), settings)
    holdout = _holdout(merged, valid, settings)
    counts = {
        "users": len(merged.users),
        "items": len(merged.vocabulary),
        "events": len(train.items),
        "examples": len(examples),
        "skipped_users": examples.skipped,
        "ties": log.ties,
        "new_users": len(merged.users) - len(recommender.users_),
        "new_items": len(merged.vocabulary) - len(recommender.vocabulary_),
        "new_events": len(log.items),
        "valid": holdout.describe(),
    }
    features = _features(recommender, merged.vocabulary, torch.bincount(train.items, minlength=train.num_items), items)
    return Prepared(
        merged.vocabulary,
        merged.users,
        train,
        examples,
        _holdout(merged, fresh, settings),
        holdout,
        counts,
        features,
        recommender.columns_,
    )


def _split(
    merged: Merged, settings: RecommendSettings, draw: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the users of the log that validate, and those that teach."""
    cut = cut_of(settings)
    held_out = np.minimum(merged.added, cut["next_items"])
    fits = merged.events.lengths.numpy() - held_out >= cut["history"]
    eligible = np.flatnonzero((held_out > 0) & fits)
    if len(eligible) < 2:
        raise DataError(
            f"the new log has {len(eligible)} users with {cut['history'] + 1} items or more; it takes 2, one to learn "
            "from and one to validate on. Give more events"
        )
    count = min(max(round(len(eligible) * settings.data.valid_fraction), 1), len(eligible) - 1)
    valid = np.sort(draw.permutation(eligible)[:count])
    return valid, np.setdiff1d(np.flatnonzero(merged.added), valid)


def _features(recommender: Recommender, vocabulary: Vocabulary, counts: Tensor, items: Any) -> ItemFeatures | None:
    """Return the features of the old items, as they are, and of the new ones by the table; without one, none."""
    before = recommender.features_
    if before is None:
        return None
    if items is None:
        nothing = pl.DataFrame({each.name: [] for each in recommender.columns_})
        table = ItemTable(pl.Series("item", [], dtype=pl.String), nothing, 0, "no table")
    else:
        table = read_items(items, recommender.settings_.data.item)
    new = as_features(recommender.columns_, table, vocabulary.ids[len(recommender.vocabulary_) :])
    return with_popularity(before.followed_by(new), counts)


def _holdout(merged: Merged, rows: NDArray[np.int64], settings: RecommendSettings) -> Holdout:
    """Return users with their last events as truth: as many as are predicted, but only new ones."""
    users = torch.from_numpy(rows)
    held_out = torch.from_numpy(np.minimum(merged.added[rows], cut_of(settings)["next_items"]))
    chosen = merged.events.select(users)
    last = torch.arange(len(chosen.items)) >= (chosen.offsets[1:] - held_out)[chosen.users]
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), held_out.cumsum(0)])
    truth = SparseLabels.from_csr(ends, chosen.items[last], num_labels=chosen.num_items)
    return Holdout(merged.users.gather(rows), chosen.first(chosen.lengths - held_out), truth)


def as_before(recommender: Recommender, num_items: int) -> Scorer:
    """Return how the recommender ranks, for histories over more items: it does not know the last of them."""
    score, size = recommender.scorer(), len(recommender.vocabulary_)

    def scores(histories: Sequences) -> Tensor:
        known = histories.items < size
        before = torch.cat([torch.zeros(1, dtype=torch.int64), known.cumsum(0)])
        found = score(Sequences(histories.items[known], before[histories.offsets], size))
        return functional.pad(found, (0, num_items - size), value=-torch.inf)

    return scores


def gentler(settings: RecommendSettings, epochs: int) -> RecommendSettings:
    """Return the settings for going on: fewer epochs, and a third of the learning rate, which falls to 0."""
    train = msgspec.structs.replace(
        settings.train,
        epochs=epochs,
        learning_rate=settings.train.learning_rate / 3,
        schedule="cosine",
        warmup_steps=0,
        patience=0,
    )
    return msgspec.structs.replace(settings, train=train)
