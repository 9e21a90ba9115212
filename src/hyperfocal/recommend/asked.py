"""Requests to a fit: histories, or users that it knows, candidates and rules in; lists of items out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import polars as pl

from hyperfocal.data.ids import IdKind, id_text
from hyperfocal.data.logs import UNNAMED, Log
from hyperfocal.data.vocabulary import Vocabulary, encode_log
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import row_pointers
from hyperfocal.metrics.ranking import NO_ITEM
from hyperfocal.recommend.lists import Personal
from hyperfocal.recommend.ranker import Fit, Ranker, Ranking
from hyperfocal.recommend.reasons import reasons
from hyperfocal.rules import Rules
from hyperfocal.sequences import Sequences

logger = logging.getLogger("hyperfocal")
NO_TIMES = "`repeat_after=` needs the time of each event. Call `predict` with a log that has times, or leave it out"


def histories_of(fit: Fit, histories: Iterable[Sequence[Any]] | None, users: Iterable[Any] | None) -> Sequences:
    """Return the histories of a request; a warning counts the users of whom nothing is known.

    Args:
        fit: that is asked.
        histories: item ids of each user. None: `users` are given.
        users: ids of training users. None: `histories` are given.

    Raises:
        ConfigError: both are given; `users` of a fit that has none.
        DataError: neither is given; a text in place of a list.
    """
    if histories is not None and users is not None:
        raise ConfigError("histories and `users=` are given, and one of them is needed. Leave one out")
    asked: Any = histories  # None is no list either
    encoded = fit.ranker.vocabulary.encode_lists(asked) if users is None else known_users(fit, users)
    if unknown := int((encoded.lengths == 0).sum()):
        logger.warning(
            "%s of %s %s, and get the items for an empty history",
            f"{unknown:,}",
            f"{len(encoded):,}",
            "users are not in the run" if histories is None else "histories have no item that the run knows",
        )
    return encoded


def known_log(fit: Fit, users: Iterable[Any]) -> Log:
    """Return the histories of training users as a log; arguments and errors as in `known_users`."""
    ranker, histories = fit.ranker, known_users(fit, users)
    names = _user_ids(fit, users)
    twice = names.is_duplicated()
    if twice.any():
        raise DataError(f"`users=`: user {names.filter(twice)[0]!r} is there twice. Give each user once")
    items = ranker.vocabulary.decode(histories.items)
    return Log(names, items, histories.offsets.numpy(), ranker.plan or UNNAMED)


def _user_ids(fit: Fit, users: Any) -> pl.Series:
    """Return ids of users as the run has them; raise DataError for a text in place of a list."""
    if isinstance(users, str) or not isinstance(users, Iterable):
        raise DataError(f"`users=`: {users!r:.60} is not a list of user ids. Write [{users!r:.60}]")
    return pl.Series("user", [id_text(user, user_kind(fit)) for user in users], dtype=pl.String)


def user_kind(fit: Fit) -> IdKind:
    """Return the kind of the ids of training users."""
    return "text" if fit.ranker.plan is None else fit.ranker.plan.kind("user") or "text"


def known_users(fit: Fit, users: Iterable[Any]) -> Sequences:
    """Return the histories of training users by their ids; empty ones for other users.

    Raises:
        ConfigError: the fit has no users.
        DataError: a text in place of a list.
    """
    if not len(fit.users):
        raise ConfigError("this run has no users: its log was streamed, or it is of an earlier version. Give histories")
    numbers = Vocabulary(fit.users).encode(_user_ids(fit, users))
    known = numbers >= 0
    events = fit.events.select(numbers[known])
    lengths = numbers.new_zeros(len(numbers))
    lengths[known] = events.lengths
    return Sequences(events.items, row_pointers(lengths), fit.events.num_items)


def ranked_lists(ranker: Ranker, histories: Sequences, k: int | None, candidates: Any, rules: Rules) -> Ranking:
    """Return the lists of users under rules; a warning counts those that the rules leave short.

    Raises:
        ConfigError: as in `limits_of` and `check_depth`; `repeat_after`, for which histories have no times.
        DataError: as in `limits_of`; candidates of another number of users.
    """
    if rules.repeat_after is not None:
        raise ConfigError(NO_TIMES)
    allowed = None if candidates is None else _candidates(candidates, len(histories), ranker.vocabulary)
    ranking = ranker.rank(histories, k, ranker.limits(rules), Personal(None if rules.repeats else histories, allowed))
    if ranking.short and (allowed is not None or rules != Rules(repeats=rules.repeats)):
        logger.warning(
            "%s of %s lists are shorter than k: rules or candidates leave no more items",
            f"{ranking.short:,}",
            f"{len(histories):,}",
        )
    return ranking


def with_repeats(rules: Rules | None, *, repeats: bool) -> Rules:
    """Return the rules; `repeats` allows items of the history too."""
    rules = rules or Rules()
    return msgspec.structs.replace(rules, repeats=True) if repeats else rules


def _candidates(candidates: Iterable[Any], users: int, vocabulary: Vocabulary) -> Sequences:
    encoded = vocabulary.encode_lists(candidates)
    if len(encoded) != users:
        raise DataError(f"`candidates=`: {len(encoded):,} lists for {users:,} users. Give one list per user")
    if users and not int(encoded.lengths.max()):
        raise DataError("`candidates=`: none of the candidates is an item that the run knows. Check their ids")
    return encoded


def candidates_for(log: Log, candidates: Log, vocabulary: Vocabulary) -> Sequences:
    """Return the candidates of each user of a log, from a log of candidates; none for a user who is not in it.

    Raises:
        DataError: none of the candidates is a known item.
    """
    encoded, _ = encode_log(candidates, vocabulary)
    if len(candidates.items) and not len(encoded.items):
        raise DataError("`candidates=`: none of the candidates is an item that the run knows. Check their ids")
    rows = Vocabulary(candidates.users).encode(log.users)
    known = rows >= 0
    lengths = rows.new_zeros(len(rows))
    chosen = encoded.select(rows[known])
    lengths[known] = chosen.lengths
    return Sequences(chosen.items, row_pointers(lengths), len(vocabulary))


def as_rows(ranking: Ranking, vocabulary: Vocabulary, users: Sequence[Any] | None) -> pl.DataFrame:
    """Return the columns user, item, rank and score; users without ids are numbered from 0."""
    owners, ranks = (ranking.items != NO_ITEM).nonzero().unbind(1)
    numbers = pl.Series("user", owners.numpy())
    ids = vocabulary.values
    return pl.DataFrame(
        {
            "user": numbers if users is None else pl.Series("user", users).gather(numbers),
            "item": [ids[item] for item in ranking.items[owners, ranks].tolist()],
            "rank": (ranks + 1).numpy(),
            "score": ranking.scores[owners, ranks].numpy(),
        }
    )


def because(ranker: Ranker, histories: Sequences, ranking: Ranking) -> pl.Series:
    """Return for each row of `as_rows` the ids of its reasons, the strongest first."""
    ids = ranker.vocabulary.values
    rows = reasons(ranker.scorer(), histories, ranking.items)
    shown = [
        [ids[reason.item] for reason in each]
        for row, items in zip(rows, ranking.items.tolist(), strict=True)
        for each, item in zip(row, items, strict=True)
        if item != NO_ITEM
    ]
    return pl.Series("because", shown, dtype=pl.List(pl.Int64 if isinstance(ids[0], int) else pl.String))
