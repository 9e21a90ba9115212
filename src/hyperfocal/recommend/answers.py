"""The answers of a fitted recommender: lists of items for users, items that are alike, vectors for an index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from hyperfocal.data.frames import to_library
from hyperfocal.data.logs import Log
from hyperfocal.recommend.asked import (
    as_rows,
    because,
    candidates_for,
    histories_of,
    known_log,
    ranked_lists,
    with_repeats,
)
from hyperfocal.recommend.ranker import Fit, Predictions
from hyperfocal.recommend.similar import item_vectors, similar_items, user_vectors
from hyperfocal.rules import Rules
from hyperfocal.training.run import UnfittedError

LogLike = Any  # a Log, a path, or a frame of any library, see `hyperfocal.data.frames`


class Answers:
    """The verbs of a fitted recommender."""

    fit_: Fit

    def recommend(
        self,
        histories: Iterable[Sequence[str | int]] | None = None,
        k: int | None = None,
        *,
        users: Iterable[str | int] | None = None,
        candidates: Iterable[Sequence[str | int]] | None = None,
        repeats: bool = False,
        rules: Rules | None = None,
    ) -> list[list[str | int]]:
        """Return the best k items of each user, best first; ids are integers if those of the training log were.

        Warnings in the log `hyperfocal` count the users of whom nothing is known, and lists that rules leave short.

        Args:
            histories: item ids of each user, oldest first, of any length; unknown items are left out.
            k: items to return. None: `data.next` of the training.
            users: ids of users of the training log, in place of histories.
            candidates: the only items that each user may get. None: all.
            repeats: whether items of the history may be recommended; as `rules.repeats`.
            rules: which items may be recommended, and how a list is put together, see `hyperfocal.Rules`.

        Raises:
            ConfigError: k is outside 1 to the number of items; histories and users are given, or neither; the rules
                allow no item, or need what the run does not have.
            DataError: a value of a filter is not of the kind of its column; candidates of another number of users.
        """
        fit = self._fit
        asked = histories_of(fit, histories, users)
        ranking = ranked_lists(fit.ranker, asked, k, candidates, with_repeats(rules, repeats=repeats))
        return ranking.names(fit.ranker.vocabulary)

    def recommend_frame(
        self,
        histories: Iterable[Sequence[str | int]] | None = None,
        k: int | None = None,
        *,
        users: Iterable[str | int] | None = None,
        candidates: Iterable[Sequence[str | int]] | None = None,
        repeats: bool = False,
        rules: Rules | None = None,
        explain: bool = False,
    ) -> Any:
        """Return the best k items of each user as rows with the columns user, item, rank and score.

        The frame is of the library of `users`, if it is a Series of one, else of polars. Users of `histories` are
        numbered from 0. Other arguments and errors as in `recommend`.

        Args:
            explain: adds the column because: items of the history without which the score falls most, see `reasons.py`.
        """
        ranker, asked = self._fit.ranker, histories_of(self._fit, histories, users)
        ranking = ranked_lists(ranker, asked, k, candidates, with_repeats(rules, repeats=repeats))
        frame = as_rows(ranking, ranker.vocabulary, None if users is None else list(users))
        if explain:
            frame = frame.with_columns(because(ranker, asked, ranking))
        return to_library(frame, getattr(users, "to_frame", lambda: users)())

    def similar(self, items: Iterable[str | int], k: int = 10) -> list[list[tuple[str | int, float]]]:
        """Return the k items most like each given one, with their similarity, the most alike first.

        The similarity is the cosine of the network's item vectors, or that of `item_knn` if the model is a baseline.

        Raises:
            ConfigError: k is outside 1 to the number of other items; the run has neither vectors nor item_knn.
            DataError: an item that the run does not know.
        """
        return similar_items(self._fit.ranker, items, k)

    def item_vectors(self) -> pl.DataFrame:
        """Return a polars frame of all items: item, and vector, (D + 1) float32, for an index of nearest neighbors.

        The inner product of a user's vector and an item's is the network's score. The last number of an item's vector
        is its bias, and that of a user's is 1.

        Raises:
            ConfigError: the model is a baseline, which has no vectors.
        """
        return item_vectors(self._fit.ranker)

    def user_vectors(
        self, histories: Iterable[Sequence[str | int]] | None = None, *, users: Iterable[str | int] | None = None
    ) -> Any:
        """Return (U, D + 1) float32 vectors of users as a NumPy array; arguments and errors as in `recommend`."""
        return user_vectors(self._fit.ranker, histories_of(self._fit, histories, users))

    def predict(
        self,
        log: LogLike,
        k: int | None = None,
        *,
        candidates: LogLike | None = None,
        repeats: bool = False,
        rules: Rules | None = None,
    ) -> Predictions:
        """Return the best k items of every user of a log as rows, in a frame of the library of `log`.

        Other arguments and errors as in `recommend`. The rows of a path, a Log or a dictionary are a polars frame.

        Args:
            candidates: the only items that each user may get, as a log; a user who is not in it gets none.
        """
        ranker = self._fit.ranker
        read = ranker.read(log)
        allowed = None if candidates is None else candidates_for(read, ranker.read(candidates), ranker.vocabulary)
        predictions = ranker.predict(read, k, with_repeats(rules, repeats=repeats), allowed)
        return replace(predictions, frame=to_library(predictions.frame, log))

    def log_of(self, users: Iterable[str | int]) -> Log:
        """Return the histories of users of the training log as a log, for `predict`; errors as in `recommend`."""
        return known_log(self._fit, users)

    @property
    def _fit(self) -> Fit:
        if not self.__sklearn_is_fitted__():
            raise UnfittedError("this recommender is not fitted. Call fit, or Recommender.load(run)")
        return self.fit_

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether `fit` or `load` has succeeded, for scikit-learn."""
        return hasattr(self, "fit_")
