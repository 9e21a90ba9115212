"""The job `recommend`: a user's last items in, the next items out.

Read from top to bottom: how a recommender is fitted, how it predicts, how it goes on from new events, how it is scored,
and how it is kept in a run folder. What it learns from is prepared in `preparation.py`, its network is in `network.py`,
its scores beside the baselines are in `comparing.py`, new events in `updating.py`, its files in `recommender_files.py`.

What predictions look like: rankings as rows, in the form of the log; and scores of labels as pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl
import torch
from torch import Tensor

from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.examples import Holdout
from hyperfocal.data.logs import Log, as_log
from hyperfocal.data.vocabulary import Vocabulary, encode_log
from hyperfocal.distributed import refuse_different
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.machine import set_threads
from hyperfocal.metrics.ranking import NO_ITEM, Scorer, rank_items
from hyperfocal.models.baselines import (
    KINDS,
    Baseline,
    baselines_beside,
    fit_baseline,
    refuse_size,
)
from hyperfocal.models.sequence_networks import network_scorer
from hyperfocal.recommend.blend import PARTNER, blended
from hyperfocal.recommend.compare import BLEND, compare, evidence_on, score_validation
from hyperfocal.recommend.files import keep_recommender, restore_recommender
from hyperfocal.recommend.item_features import with_new_items
from hyperfocal.recommend.network import train_network
from hyperfocal.recommend.prepare import Prepared, hold_out, prepare, prepare_streamed, streams
from hyperfocal.recommend.update import refuse_update, updated
from hyperfocal.sequences import Sequences
from hyperfocal.storage.run_folder import CONFIG, RunFolder
from hyperfocal.training.run import begin_run, open_run, resolve_settings
from hyperfocal.training.trainer import Progress

LogLike = Log | pl.DataFrame | str | Path
Watch = Callable[[Progress, int], None]


class Recommender:
    """Recommends the next items of users, also of users never seen in training.

    The arguments are the command line's: None is what the recipe says, and without a recipe the defaults.

    Args:
        recipe: path of a TOML file.
        model: "transformer", "gru", "mean", "concat_mlp", "popularity", "cooccurrence", "markov", "decayed_markov",
            "item_knn" or "ease".
        history: items that the network reads.
        next_items: items that are the target.
        seed: of the split, the initial weights and the order of the examples.
        settings: any others by their dotted key, as {"train.epochs": 5}.

    Attributes:
        settings_: everything resolved.
        vocabulary_: the items.
        model_: the fitted network or baseline.
        users_: ids of the training users.
        events_: what they did; these two are empty where the log was streamed, as streamed_ says.
        features_: of the items, and columns_, those of the table that they come from.
        baselines_: name -> fitted baseline.
        fingerprint_: checksum of the data and the split, by which a resumed run knows them.
        metrics_: scores on validation users beside the baselines, the verdict, and the counts of the data.
        history_: a row an epoch; empty for baselines.

    >>> log = pl.DataFrame({"user": list("aaabbbccc"), "item": list("xyzxyzyzx")})
    >>> recommender = Recommender(model="markov", history=2, next_items=1).fit(log)
    >>> recommender.recommend([["x"], ["z", "x"]], k=1)
    [['y'], ['y']]
    """

    blend_weight_ = 0.0  # of the baseline in the blend
    streamed_ = False  # whether the log was one that need not fit into memory
    new_items_ = 0  # items, the last of the vocabulary, that training never saw
    evidence_: dict[str, Any] | None = None  # for the report: made by `update`, and by `fit` with a run folder

    def __init__(
        self,
        recipe: str | Path | None = None,
        *,
        model: str | None = None,
        history: int | None = None,
        next_items: int | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.history = history
        self.next_items = next_items
        self.seed = seed
        self.settings = settings

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments, as scikit-learn's `clone` asks for them."""
        names = ("recipe", "model", "history", "next_items", "seed", "settings")
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Recommender:
        """Change arguments; they count from the next `fit` on."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ConfigError(f"parameter {name!r} is unknown. Allowed: {', '.join(self.get_params())}")
            setattr(self, name, value)
        return self

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
        watch: Watch = lambda *_: None,
    ) -> Recommender:
        """Fit on a log and score the result on validation users beside the baselines.

        Args:
            log: training events: a path, a frame in long form, or a Log.
            valid: events of other users, to choose the best epoch on; None holds users of `log` out.
            valid_truth: the items that follow `valid`; None takes the last ones of `valid`.
            items: table of the items, a path or a frame, whose columns the network learns from (`items.features`).
            out: run folder; it gets checkpoints while training goes on.
            resume: continue the run in `out`, or start it if there is none.
            overwrite: replace the run in `out`.
            watch: called with (progress, steps an epoch) as training goes on.

        Raises:
            DataError: the log cannot be read or has no user long enough; the table of items is wrong.
            LeakError: a user stands in `log` and in `valid`.
            ConfigError: a setting is wrong, a resumed run had others, or the model is ease and the catalogue too large.
            RunError: `out` holds another run or cannot be written.
            TrainingError: the loss is no longer a number; another one of several processes is gone.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was written to `out`.

        Inside `hyperfocal.distributed.processes()` all processes train together, and all have the result; the first
        writes `out`.
        """
        run, resume, self.settings_ = open_run(out, self._resolve, resume=resume, overwrite=overwrite)
        set_threads(self.settings_.train.threads)
        read = prepare_streamed if streams(log, self.settings_) else prepare
        return self._fit(read(log, valid, valid_truth, self.settings_, items), run, resume, watch)

    def fit_prepared(
        self,
        data: Prepared,
        *,
        out: str | Path | None = None,
        overwrite: bool = False,
        watch: Watch = lambda *_: None,
    ) -> Recommender:
        """Fit on a log that is read, split and cut already, as the points of a grid share it; else as `fit`."""
        run = None if out is None else RunFolder(out)
        if run is not None:
            run.refuse_taken(overwrite=overwrite)
        self.settings_ = self._resolve(None)
        set_threads(self.settings_.train.threads)
        return self._fit(data, run, False, watch)

    def _fit(self, data: Prepared, run: RunFolder | None, resume: bool, watch: Watch) -> Recommender:
        refuse_size(self.settings_.model.name, len(data.vocabulary))
        began = perf_counter()
        self.fingerprint_ = data.fingerprint()
        refuse_different("data", self.fingerprint_)
        if run is not None:
            begin_run(run, self.settings_, self.fingerprint_, resume=resume)
        self._learn(data, run, resume=resume, watch=watch)
        self.metrics_ = score_validation(self, data)
        self.evidence_ = None if run is None else evidence_on(self, data.valid, began=began)
        if run is not None:
            keep_recommender(run, self)
        return self

    def _resolve(self, resumed: RunFolder | None) -> RecommendSettings:
        asked = {
            "model.name": self.model,
            "data.history": self.history,
            "data.next": self.next_items,
            "seed": self.seed,
            **(self.settings or {}),
        }
        return resolve_settings(RecommendSettings, self.recipe, asked, resumed)

    def _learn(self, data: Prepared, run: RunFolder | None, *, resume: bool, watch: Watch) -> None:
        self.adopt(data)
        name = self.settings_.model.name
        self.history_: list[dict[str, float]] = []
        if name in KINDS:
            self.model_: Any = self.baselines_[name]
        else:
            self.model_, self.history_ = train_network(data, self.settings_, run, resume=resume, watch=watch)

    def adopt(self, data: Prepared) -> None:
        """Take over the items, users and events, and count what the baselines count."""
        self.vocabulary_, self.users_, self.events_ = data.vocabulary, data.users, data.train
        self.streamed_ = bool(data.counts.get("streamed"))
        if self.streamed_:
            self.events_ = Sequences.empty(len(data.vocabulary))
        self.features_, self.columns_ = data.features, list(data.columns)
        wanted = (*baselines_beside(len(data.vocabulary), streamed=self.streamed_), self.settings_.model.name)
        self.baselines_ = {name: fit_baseline(name, data.train) for name in KINDS if name in wanted}

    def scorer(self) -> Scorer:
        """Return the function from histories to (U, L) scores by which it ranks."""
        return self.scorer_blended() if self.ranker_ == BLEND else self.scorer_alone()

    def scorer_alone(self) -> Scorer:
        """Return that of the model without a blend."""
        if isinstance(self.model_, Baseline):
            return self.model_.scores
        return network_scorer(self.model_, self.settings_.data.history)

    def scorer_blended(self) -> Scorer:
        """Return that of the network blended with decayed Markov, by the weight that validation users chose."""
        return blended(self.scorer_alone(), self.baselines_[PARTNER].scores, self.blend_weight_)

    @property
    def ranker_(self) -> str:
        """What ranks, as the tables call it."""
        blends = self.settings_.model.blend and not isinstance(self.model_, Baseline)
        return BLEND if blends else self.settings_.model.name

    def recommend(
        self, histories: Iterable[Sequence[str]], k: int | None = None, *, repeats: bool = False
    ) -> list[list[str]]:
        """Return the best k items of each user, best first.

        Args:
            histories: item ids of each user, oldest first; any length; unknown items are left out.
            k: items to return; None is the `next` that the model was trained for.
            repeats: whether items of the history may be recommended.

        Raises:
            ConfigError: k outside 1 to the number of items.
        """
        self._refuse_unfitted()
        ranked, _ = self._rank(self.vocabulary_.encode_lists(histories), k, repeats)
        ids = self.vocabulary_.names
        return [[ids[item] for item in row if item != NO_ITEM] for row in ranked.tolist()]

    def with_new_items(self, items: Any, *, boost: float | None = None) -> Recommender:
        """Return a recommender that knows the items of a table too that training never saw.

        They are scored by their features. What is learnt is shared, not copied; `save` and `update` are for the
        recommender itself.

        Args:
            items: path or frame, with the columns that the run was trained with.
            boost: added to the scores of new items. Training has learnt that items which it does not know are rarely
                next; 1 makes them 2.7 times as likely, at the cost of the others. None takes `items.boost`.

        Raises:
            ConfigError: the run has learnt no features.
            DataError: no item is new; nothing is known of one; a column is missing.
        """
        self._refuse_unfitted()
        self._refuse_widened("with_new_items")
        return with_new_items(self, items, boost)

    def update(
        self, log: LogLike, *, items: Any = None, epochs: int = 3, watch: Watch = lambda *_: None
    ) -> Recommender:
        """Go on from what was learnt, with new events, new users and new items; not from the start.

        Events of users that training had follow those it had of them. The network learns from the users of the new
        log and as many others; the baselines count everything again. A tenth of the log's users
        (`data.valid_fraction`) validate: `metrics_["before"]` is what the recommender achieved on them until now.

        Args:
            log: new events: a path, a frame or a Log, as in `fit`.
            items: table of the new items, for a network that reads features; without it nothing is known of them.
            epochs: passes at most; the best one counts.
            watch: as in `fit`.

        Raises:
            DataError: the log cannot be read, or has fewer than two users to learn from and validate on.
            RunError: not fitted, made by `with_new_items`, or loaded from a run of an earlier version.
            ConfigError: fitted under leave-one-out; a table of items for a model that has learnt none; more items
                than ease takes.
            TrainingError: the loss is no longer a number.
        """
        self._refuse_unfitted()
        self._refuse_widened("update")
        refuse_update(self, items)
        self.__dict__.update(vars(updated(self, log, items, epochs, watch)))
        return self

    def _refuse_widened(self, what: str) -> None:
        if self.new_items_:
            raise RunError(f"{what} is for the recommender that was fitted, not for what with_new_items made of it")

    def _refuse_unfitted(self) -> None:
        if not hasattr(self, "model_"):
            raise RunError("this Recommender has not learnt anything yet: call fit, or Recommender.load(run)")

    def _rank(self, histories: Sequences, k: int | None, repeats: bool) -> tuple[Tensor, Tensor]:
        k = self.settings_.data.next if k is None else k
        with torch.inference_mode():
            return rank_items(self.scorer(), histories, k, repeats=repeats)

    def predict(self, log: LogLike, k: int | None = None, *, repeats: bool = False) -> Predictions:
        """Return the best k items of every user of a log, as rows; arguments and errors as in `recommend`."""
        self._refuse_unfitted()
        log = as_log(log, self.settings_.data)
        histories, unknown = encode_log(log, self.vocabulary_)
        items, scores = self._rank(histories, k, repeats)
        return Predictions(as_rows(log, self.vocabulary_, items, scores), len(log), unknown)

    def evaluate(
        self, log: LogLike, truth: LogLike | None = None, *, k: int | None = None, repeats: bool = False
    ) -> dict[str, Any]:
        """Return scores and verdict, as `metrics_`, for other users.

        Args:
            log: their histories.
            truth: the items that follow; None takes the last `next` items of each history, the last one of those
                with three or more under leave-one-out.
            k: length of the ranking; None is `next`.
            repeats: whether items of the history may be recommended.

        Raises:
            DataError: no user of the log can be scored.
        """
        self._refuse_unfitted()
        return self.evaluate_holdout(hold_out(log, truth, self.vocabulary_, self.settings_), k=k, repeats=repeats)

    def evaluate_holdout(self, holdout: Holdout, *, k: int | None = None, repeats: bool = False) -> dict[str, Any]:
        """Return scores and verdict, as `evaluate`, for users whose histories are numbered and cut already."""
        self._refuse_unfitted()
        with torch.inference_mode():
            metrics = compare(self, holdout, k=k, repeats=repeats)
        return metrics | {"data": holdout.describe()}

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder, from which `load` predicts the same.

        Raises:
            RunError: the folder holds another run, or cannot be written.
        """
        run = RunFolder(path)
        self._refuse_unfitted()
        self._refuse_widened("save")
        run.refuse_taken(overwrite=overwrite)
        begin_run(run, self.settings_, self.fingerprint_, resume=False)
        keep_recommender(run, self)

    @classmethod
    def load(cls, path: str | Path) -> Recommender:
        """Return the recommender of a run folder.

        Raises:
            RunError: no run, an unfinished run, or a file that is missing or damaged.
        """
        run = RunFolder.open(path)
        recommender = cls(run.path / CONFIG)
        restore_recommender(run, recommender)
        return recommender


PAIRS = pl.List(pl.Struct({"label": pl.String, "probability": pl.Float64}))


@dataclass(frozen=True, eq=False)
class Predictions:
    """What `predict` returns.

    Attributes:
        frame: the input's user and item columns, `rank` (1 is best) and `score`; or, for a log in the
            challenge format, `user_sequence` ("<user>_11" is the best after 10) and `challenge`.
        users: users of the log.
        unknown_events: events of items that training never saw, left out of the histories.
    """

    frame: pl.DataFrame
    users: int
    unknown_events: int


def as_rows(log: Log, vocabulary: Vocabulary, items: Tensor, scores: Tensor) -> pl.DataFrame:
    """Return (U, k) rankings of a log's users as rows.

    Raises:
        ConfigError: the log has a column called rank or score.
    """
    users, ranks = (items != NO_ITEM).nonzero().unbind(1)
    chosen = vocabulary.decode(items[users, ranks])
    owners = log.users.gather(pl.Series(users.numpy(), dtype=pl.UInt32))
    if log.form == "challenge":
        position = pl.Series(log.lengths[users.numpy()] + ranks.numpy() + 1).cast(pl.String)
        return pl.DataFrame({"user_sequence": owners + "_" + position, "challenge": chosen})
    columns = {log.user_column: owners, log.item_column: chosen}
    if columns.keys() & {"rank", "score"}:
        raise ConfigError(f"columns {', '.join(columns)}: predictions have a rank and a score too. Rename yours")
    return pl.DataFrame(columns | {"rank": ranks.numpy() + 1, "score": scores[users, ranks].numpy()})


def with_pairs(frame: pl.DataFrame) -> pl.DataFrame:
    """Return what `predict_documents` does with scores as lists of (label, probability), as tables can hold them."""
    pairs = [[{"label": label, "probability": share} for label, share in row.items()] for row in frame["scores"]]
    return frame.with_columns(pl.Series("scores", pairs, dtype=PAIRS))
