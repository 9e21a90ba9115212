"""Continue a fit with new events, users and items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

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
from hyperfocal.data.log_checksum import log_checksum
from hyperfocal.data.logs import Log
from hyperfocal.data.reading import with_type
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import set_threads
from hyperfocal.metrics.ranking import Scorer
from hyperfocal.models.baselines import Baseline, check_size
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.recommend.compare import score_ranker, score_validation
from hyperfocal.recommend.item_features import encode_features, with_popularity
from hyperfocal.recommend.network import train, widened_network
from hyperfocal.recommend.prepare import Prepared, cut_of, training_examples
from hyperfocal.recommend.ranker import Fit, Ranker, choose_blend
from hyperfocal.recommend.repeated import check_new
from hyperfocal.sequences import Sequences
from hyperfocal.training.continued import continued
from hyperfocal.training.watch import SILENT, Watch


def update(
    fit: Fit, log: Any, *, items: Any = None, epochs: int = 3, again: bool = False, watch: Watch = SILENT
) -> Fit:
    """Return the fit continued with the events of a log; arguments and errors as in `Recommender.update`."""
    check_update(fit, items)
    before = fit.ranker
    settings = settings_of_update(before.settings, epochs)
    watch.begun(settings)
    set_threads(before.settings.train.threads)
    began, log = perf_counter(), before.read(log)
    checksum = log_checksum(log) if again else check_new(fit, log)
    merged = merge(fit, log)
    data = _prepare(fit, log, merged, items)
    check_size(before.settings.model.name, len(data.vocabulary))
    network = None if isinstance(before.model, Baseline) else widened_network(before.model, settings, data)
    ranker, history = train(data, settings, watch=watch, network=network)
    ranker = choose_blend(replace(ranker, settings=before.settings), data.valid)
    metrics, evidence = score_validation(ranker, data, began=began)
    ranker = replace(ranker, best=metrics["model"] if ranker.chooses else "")
    metrics |= {"before": _score_before(before, data)}
    logs = (*fit.logs, *({checksum} - {*fit.logs}))
    return Fit(ranker, merged.users, merged.events, data.fingerprint(), metrics, history, evidence, logs)


def check_update(fit: Fit, items: Any) -> None:
    """Raise an error if the fit cannot be updated.

    Raises:
        RunError: the run has no training events.
        ConfigError: the fit is of leave-one-out; or there is an item table, and the model reads none.
    """
    if fit.ranker.streamed:
        raise RunError("this run was fitted on a streamed log and kept no events: it cannot be updated. Fit it again")
    if not len(fit.users):
        raise RunError("this run is of an earlier version, which kept no events: it cannot be updated. Fit it again")
    if fit.ranker.settings.data.protocol == "leave-one-out":
        raise ConfigError(
            "this run left each user's last two items out, so new events would follow a gap. "
            "Fit with `settings={'data.protocol': 'users'}` to update later"
        )
    if items is not None and fit.ranker.features is None and fit.ranker.table is None:
        raise ConfigError("`items=`: this run was fitted without a table of items. Leave it out, or fit with one too")


def settings_of_update(settings: RecommendSettings, epochs: int) -> RecommendSettings:
    """Return the settings that an update trains with: its epochs, and a third of the learning rate, falling to 0.

    Raises:
        ConfigError: as in `continued`.
    """
    return msgspec.structs.replace(settings, train=continued(settings.train, epochs))


@dataclass(frozen=True, eq=False)
class Merged:
    """Old and new events together.

    Attributes:
        vocabulary: the old items, then the new ones.
        users: the old users, then the new ones.
        events: of all users; an old user's new events follow the old ones.
        added: (U,) int64, number of new events per user.
    """

    vocabulary: Vocabulary
    users: pl.Series
    events: Sequences
    added: NDArray[np.int64]


def merge(fit: Fit, log: Log) -> Merged:
    """Return the training events of a fit together with a log."""
    vocabulary = fit.ranker.vocabulary.extended(log.items)
    users = pl.concat([fit.users, log.users.filter(~log.users.is_in(fit.users.implode())).alias("user")])
    numbers = log.users.cast(pl.Enum(users)).to_physical().cast(pl.Int64).to_numpy()
    owners = np.concatenate([fit.events.users.numpy(), np.repeat(numbers, log.lengths)])
    items = torch.cat([fit.events.items, vocabulary.encode(log.items)])
    order = torch.from_numpy(np.argsort(owners, kind="stable"))
    offsets = torch.from_numpy(np.bincount(owners, minlength=len(users))).cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), offsets])
    added = np.zeros(len(users), dtype=np.int64)
    added[numbers] = log.lengths
    return Merged(vocabulary, users, Sequences(items[order], offsets, len(vocabulary)), added)


def _prepare(fit: Fit, log: Log, merged: Merged, items: Any) -> Prepared:
    """Return the data of an update: the users of the log, and as many old users, so that the network forgets none.

    A fraction of the log's users, `data.valid_fraction`, validates: their new events are not trained on this time.

    Raises:
        DataError: fewer than two users of the log have an item to validate on; there is nothing to learn from.
    """
    ranker, settings = fit.ranker, fit.ranker.settings
    generator = np.random.default_rng([settings.seed, len(merged.events.items)])  # other users at each update
    valid, fresh = _split(merged, settings, generator)
    lengths = merged.events.lengths.numpy().copy()
    lengths[valid] -= merged.added[valid]
    train_events = merged.events.first(torch.from_numpy(lengths))
    others = generator.permutation(np.flatnonzero(merged.added == 0))[: len(fresh)]
    learners = torch.from_numpy(np.sort(np.concatenate([fresh, others])))
    examples = training_examples(train_events.select(learners), settings)
    holdout = _holdout(merged, valid, settings)
    counts = {
        "users": len(merged.users),
        "items": len(merged.vocabulary),
        "events": len(train_events.items),
        "examples": len(examples),
        "skipped_users": examples.skipped,
        "ties": log.ties,
        "repeats": log.repeats,
        "incomplete": log.incomplete,
        "new_users": len(merged.users) - len(fit.users),
        "new_items": len(merged.vocabulary) - len(ranker.vocabulary),
        "new_events": len(log.items),
        "valid": holdout.describe(),
    }
    table = None if items is None else read_items(items, ranker.item_column, ranker.vocabulary.kind)
    features = _extend_features(ranker, merged.vocabulary, table, train_events)
    table = ranker.table if table is None or ranker.table is None else ranker.table.extended(table)
    on_train = _holdout(merged, fresh, settings)
    plan = with_type(ranker.plan or log.plan, "item", merged.vocabulary.kind)  # new ids may be texts
    return Prepared(
        merged.vocabulary,
        merged.users,
        train_events,
        examples,
        on_train,
        holdout,
        counts,
        plan,
        features,
        ranker.columns,
        table,
    )


def _split(
    merged: Merged, settings: RecommendSettings, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the log's users who validate, and of those who train."""
    cut = cut_of(settings)
    held_out = np.minimum(merged.added, cut["next_items"])
    long_enough = merged.events.lengths.numpy() - held_out >= cut["history"]
    eligible = np.flatnonzero((held_out > 0) & long_enough)
    if len(eligible) < 2:
        raise DataError(
            f"the new log has {len(eligible)} users with {cut['history'] + 1} items or more; an update needs 2, "
            "one to learn from and one to validate on. Give more events"
        )
    count = min(max(round(len(eligible) * settings.data.valid_fraction), 1), len(eligible) - 1)
    valid = np.sort(generator.permutation(eligible)[:count])
    return valid, np.setdiff1d(np.flatnonzero(merged.added), valid)


def _holdout(merged: Merged, rows: NDArray[np.int64], settings: RecommendSettings) -> Holdout:
    """Return users with their last `data.next` events as truth, of which only new events are taken."""
    held_out = torch.from_numpy(np.minimum(merged.added[rows], cut_of(settings)["next_items"]))
    events = merged.events.select(torch.from_numpy(rows))
    is_truth = torch.arange(len(events.items)) >= (events.offsets[1:] - held_out)[events.users]
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), held_out.cumsum(0)])
    truth = SparseLabels.from_csr(ends, events.items[is_truth], num_labels=events.num_items)
    return Holdout(merged.users.gather(rows), events.first(events.lengths - held_out), truth)


def _extend_features(
    ranker: Ranker, vocabulary: Vocabulary, table: ItemTable | None, events: Sequences
) -> ItemFeatures | None:
    """Return the features of the old items, then those of the new ones; without a table the new ones have none."""
    if ranker.features is None:
        return None
    if table is None:
        empty = pl.DataFrame({each.name: [] for each in ranker.columns})
        table = ItemTable(pl.Series("item", [], dtype=pl.String), empty, 0, "no table")
    new = encode_features(ranker.columns, table, vocabulary.ids[len(ranker.vocabulary) :])
    counts = torch.bincount(events.items, minlength=events.num_items)
    return with_popularity(ranker.features.followed_by(new), counts)


def _score_before(ranker: Ranker, data: Prepared) -> dict[str, Any]:
    """Score the ranker before the update on the validation users of the update."""
    num_items = len(data.vocabulary)
    counts = torch.bincount(data.train.items, minlength=num_items)
    scorer = _without_new_items(ranker, num_items)
    return score_ranker(scorer, data.valid, counts, k=ranker.settings.data.next).to_dict()


def _without_new_items(ranker: Ranker, num_items: int) -> Scorer:
    """Return the ranker's scorer for histories over more items, the last of which it does not know."""
    score, size = ranker.scorer(), len(ranker.vocabulary)

    def scores(histories: Sequences) -> Tensor:
        is_known = histories.items < size
        before = torch.cat([torch.zeros(1, dtype=torch.int64), is_known.cumsum(0)])
        known_scores = score(Sequences(histories.items[is_known], before[histories.offsets], size))
        return functional.pad(known_scores, (0, num_items - size), value=-torch.inf)

    return scores
