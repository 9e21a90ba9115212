"""The estimator of the job `recommend`: a user's last items in, the next items out.

A fit prepares the log (`prepare.py`), trains the model (`network.py`), chooses its blend (`ranker.py`), compares it
with the baselines (`compare.py`) and writes a run folder (`files.py`). `answers.py` has the verbs of what is fitted,
`update.py` continues from new events.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from sklearn.base import BaseEstimator, clone

from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.item_table import read_items
from hyperfocal.errors import RunError
from hyperfocal.machine import set_threads
from hyperfocal.recommend.answers import Answers
from hyperfocal.recommend.compare import compare
from hyperfocal.recommend.files import read_fit, write_fit
from hyperfocal.recommend.fitting import fit_ranker
from hyperfocal.recommend.prepare import Prepared, cut_of, hold_out, name_of, prepare
from hyperfocal.recommend.ranker import Fit
from hyperfocal.recommend.update import update
from hyperfocal.storage.run_folder import CONFIG, RunFolder, read_stable
from hyperfocal.training.run import (
    Origin,
    data_facts,
    open_run,
    origin_of,
    resolve_settings,
    write_identity,
    write_run,
)
from hyperfocal.training.watch import SILENT, Watch, check_watch

logger = logging.getLogger("hyperfocal")
LogLike = Any  # a Log, a path, or a frame of any library, see `hyperfocal.data.frames`


class Recommender(Answers, BaseEstimator):
    """Recommends the next items of users, also of users never seen in training.

    The parameters are those of the command line. None: the recipe's value, without a recipe the default. `settings`
    wins over a parameter, and a parameter wins over the recipe.

    Args:
        recipe: path of a TOML file.
        user: column of the user id in a log. None: one of a known name, such as user_id.
        item: column of the item id. None: one of a known name, such as product_id.
        order: column of the position or time of an event. None: one of a known name, else the order of the rows.
        model: "transformer", "gru", "mean", "concat_mlp", "popularity", "cooccurrence", "markov", "decayed_markov",
            "item_knn", "ease" or "user_knn".
        history: number of items that the network reads.
        next_items: number of items that follow a history as its target.
        seed: of the split, the initial weights and the order of the examples.
        settings: any others by their dotted key, as {"train.epochs": 5}.

    Attributes:
        fit_: everything learnt; set when `fit`, `update` or `load` has succeeded. The others read it.

    >>> import polars as pl
    >>> log = pl.DataFrame({"user": list("aaabbbccc"), "item": list("xyzxyzyzx")})
    >>> recommender = Recommender(model="markov", history=2, next_items=1).fit(log)
    >>> recommender.recommend([["x"], ["z", "x"]], k=1)
    [['y'], ['y']]
    """

    _origin: Origin | None = None  # the run folder that the fit was read from or written to
    ranker_ = property(attrgetter("_fit.ranker"), doc="All that ranks.")
    settings_ = property(attrgetter("_fit.ranker.settings"), doc="All settings, resolved.")
    vocabulary_ = property(attrgetter("_fit.ranker.vocabulary"), doc="The items.")
    model_ = property(attrgetter("_fit.ranker.model"), doc="The trained network or the fitted baseline.")
    baselines_ = property(attrgetter("_fit.ranker.baselines"), doc="Name -> fitted baseline.")
    blend_weight_ = property(attrgetter("_fit.ranker.blend_weight"), doc="Of the baseline in the blend, in [0, 1].")
    features_ = property(attrgetter("_fit.ranker.features"), doc="Of the training items. None: no table of items.")
    columns_ = property(attrgetter("_fit.ranker.columns"), doc="Of the table that the features come from.")
    new_items_ = property(attrgetter("_fit.ranker.new_items"), doc="Number of items that training never saw.")
    streamed_ = property(attrgetter("_fit.ranker.streamed"), doc="Whether the log was streamed.")
    users_ = property(attrgetter("_fit.users"), doc="Ids of the training users; empty if the log was streamed.")
    events_ = property(attrgetter("_fit.events"), doc="Events of the training users; empty if the log was streamed.")
    fingerprint_ = property(attrgetter("_fit.fingerprint"), doc="Checksum of the data and the split.")
    metrics_ = property(attrgetter("_fit.metrics"), doc="Scores on validation users, verdict, and counts of the data.")
    history_ = property(attrgetter("_fit.history"), doc="A row per epoch; empty for baselines.")
    evidence_ = property(attrgetter("_fit.evidence"), doc="Tables and examples for the report; None after `load`.")

    def __init__(
        self,
        recipe: str | Path | None = None,
        *,
        user: str | None = None,
        item: str | None = None,
        order: str | None = None,
        model: str | None = None,
        history: int | None = None,
        next_items: int | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe = recipe
        self.user = user
        self.item = item
        self.order = order
        self.model = model
        self.history = history
        self.next_items = next_items
        self.seed = seed
        self.settings = settings

    def fit(
        self,
        log: LogLike,
        valid: LogLike | None = None,
        *,
        valid_truth: LogLike | None = None,
        items: Any = None,
        out: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        watch: Watch = SILENT,
    ) -> Recommender:
        """Fit on a log, and compare the result with the baselines on validation users.

        Inside `hyperfocal.distributed.processes()` all processes train together and get the result; one writes.

        Args:
            log: training events: a path, a frame in long form, or a Log.
            valid: events of other users, to choose the best epoch on. None: some users of `log`.
            valid_truth: the items that follow `valid`. None: its last items.
            items: table of the items, a path or a frame, whose columns the network reads (`items.features`).
            out: run folder; training writes checkpoints there.
            resume: continue the run in `out`, or start it if there is none.
            overwrite: replace the run in `out`.
            watch: shows or tracks progress: a `Watch` whose `begun` and `stepped` are called.

        Raises:
            DataError: the log cannot be read or has no user long enough; the table of items is wrong.
            LeakError: a user is in `log` and in `valid`.
            ConfigError: a setting is wrong, or differs from the run to resume; the catalogue is too large for ease.
            RunError: `out` holds another run or cannot be written.
            TrainingError: the loss is no longer a number; in training with several processes, another one is gone.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was written to `out`.
        """
        check_watch(watch)
        with open_run(out, self.resolve, resume=resume, overwrite=overwrite) as (run, resumed, settings):
            watch.begun(settings)
            set_threads(settings.train.threads)
            data = prepare(log, valid, valid_truth, settings, items, planned=watch.planned)
            self.fit_ = fit_ranker(data, settings, run, resumed, watch)
            self._origin = origin_of(run)
        return self

    def fit_prepared(self, data: Prepared, *, out: str | Path | None = None, overwrite: bool = False) -> Recommender:
        """Fit on data from `prepare`, which the points of a grid share. Other arguments and errors as in `fit`."""
        with open_run(out, self.resolve, resume=False, overwrite=overwrite) as (run, _, settings):
            set_threads(settings.train.threads)
            self.fit_ = fit_ranker(data, settings, run)
            self._origin = origin_of(run)
        return self

    def resolve(self, resumed: RunFolder | None = None) -> RecommendSettings:
        """Return the settings that `fit` trains with; errors as in `resolve_settings`."""
        given = {
            "data.user": self.user,
            "data.item": self.item,
            "data.order": self.order,
            "model.name": self.model,
            "data.history": self.history,
            "data.next": self.next_items,
            "seed": self.seed,
        }
        return resolve_settings(RecommendSettings, self.recipe, given, resumed, self.settings)

    def evaluate(
        self, log: LogLike, truth: LogLike | None = None, *, k: int | None = None, repeats: bool = False
    ) -> dict[str, Any]:
        """Return scores and verdict, as in `metrics_`, for other users.

        `["data"]["training_users"]` is the number of scored users whose truth was trained on. None: the run was
        streamed, or is of an earlier version.

        Args:
            log: their histories.
            truth: the items that follow. None: the last `data.next` items of each history; under leave-one-out one
                item, of histories with three or more.
            k: length of the ranking. None: `data.next` of the training.
            repeats: whether items of the history may be recommended.

        Raises:
            DataError: no user of the log can be scored.
        """
        ranker = self._fit.ranker
        cut, name = cut_of(ranker.settings, test=True), name_of(log, "log")
        holdout = hold_out(log, truth, ranker.vocabulary, ranker.reading, cut=cut, name=name)
        return compare(self._fit, holdout, k=k, repeats=repeats)

    def with_item_table(self, items: Any) -> Recommender:
        """Return a recommender whose rules read another item table, such as that of today's stock and prices.

        Args:
            items: path or frame. What the network has learnt of the items stays.

        Raises:
            DataError: as in `read_items`.
        """
        fit, other = self._fit, cast(Recommender, clone(self))
        table = read_items(items, fit.ranker.item_column, fit.ranker.vocabulary.kind)
        other.fit_, other._origin = replace(fit, ranker=replace(fit.ranker, table=table)), self._origin
        return other

    def with_new_items(self, items: Any, *, boost: float | None = None) -> Recommender:
        """Return a recommender that also ranks items of a table that training never saw.

        They are scored by their features. The result shares the weights and cannot be saved or updated.

        Args:
            items: path or frame, with the columns that the run was trained on.
            boost: added to the scores of new items. Training has learnt that unknown items are rarely next; 1 makes
                them 2.7 times as likely, at the cost of the others. None: `items.boost`.

        Raises:
            ConfigError: the run was fitted without item features.
            DataError: no item is new; nothing is known of one; a column is missing.
        """
        fit = self._fit_for("with_new_items")
        wider: Recommender = clone(self)
        wider.fit_ = replace(fit, ranker=fit.ranker.with_items(items, boost))
        return wider

    def update(
        self, log: LogLike, *, items: Any = None, epochs: int = 3, again: bool = False, watch: Watch = SILENT
    ) -> Recommender:
        """Continue from what was learnt, with new events, new users and new items.

        New events of training users follow their old ones. The network learns from the users of the new log and as many
        others; the baselines count all events. A fraction of the log's users (`data.valid_fraction`) validates, and
        `metrics_["before"]` has their scores before the update.

        Args:
            log: new events: a path, a frame or a Log, as in `fit`.
            items: table of the new items, for a network that reads features. None: they have no features.
            epochs: passes at most; the best one counts.
            again: whether a log is allowed that the fit has already, or one that begins with the events that it has.
            watch: as in `fit`.

        Raises:
            DataError: the log cannot be read, repeats events, or has fewer than two users to learn and validate on.
            RunError: not fitted, made by `with_new_items`, or loaded from a run of an earlier version.
            ConfigError: fitted under leave-one-out; `items` for a model that reads none; too many items for ease.
            TrainingError: the loss is no longer a number.
        """
        check_watch(watch)
        self.fit_ = update(self._fit_for("update"), log, items=items, epochs=epochs, again=again, watch=watch)
        return self

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder, from which `load` predicts the same; a run that is there is replaced in one step.

        Raises:
            RunError: the folder holds another run, cannot be written, or another process writes to it; it holds another
                run than when this one was loaded from it.
        """
        self._fit_for("save")
        self._origin = write_run(path, self.write_into, overwrite=overwrite, origin=self._origin)

    def write_into(self, run: RunFolder) -> None:
        """Write everything that `load` reads into an empty folder, whose only writer this process is.

        Raises:
            RunError: it cannot be written.
        """
        fit = self._fit_for("save")
        facts = data_facts(fit.ranker.plan, fit.metrics["data"], fit.logs)
        write_identity(run, fit.ranker.settings, fit.fingerprint, facts=facts)
        write_fit(run, fit)

    @classmethod
    def load(cls, path: str | Path) -> Recommender:
        """Return the recommender of a run folder.

        Raises:
            RunError: no run, an unfinished run, or a file that is missing or damaged.
        """
        fit, origin = read_stable(path, lambda run: (read_fit(run), origin_of(run)))
        recommender = cls(Path(path) / CONFIG)
        recommender.fit_, recommender._origin = fit, origin
        return recommender

    def _fit_for(self, method: str) -> Fit:
        """Return the fit; raise RunError if it has new items."""
        if self.new_items_:
            raise RunError(f"{method} is not allowed after with_new_items. Call it on the recommender that was fitted")
        return self._fit
