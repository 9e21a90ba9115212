"""The settings of the job `recommend`."""

from typing import Annotated, Literal

from msgspec import Meta

from hyperfocal.config.sections import (
    Alpha,
    AtLeastOne,
    AtLeastZero,
    Dropout,
    Fraction,
    Gamma,
    Reduction,
    Section,
    TrainSettings,
)

MODEL_NAMES = ("concat_mlp", "popularity", "cooccurrence", "markov", "decayed_markov")


class DataSettings(Section, frozen=True, kw_only=True):
    """Where the columns are and how a history becomes an example."""

    user: str = ""  # column of the user id; "" finds it (`user`, or the first of three columns)
    item: str = ""  # column of the item id; "" likewise
    order: str = ""  # column of the position or time stamp; without one, the order of the file
    history: AtLeastOne = 10  # items that the network reads
    next: AtLeastOne = 3  # items that are the target, and that `predict` returns by default
    examples: Literal["last", "every"] = "every"  # cuts of a training user: one before the last `next` items, or all
    order_kind: Literal["auto", "position", "time"] = "auto"  # positions are unique; auto: integers below 10 million
    valid_fraction: Fraction = 0.1  # share of users held out where no validation file is given


class ModelSettings(Section, frozen=True, kw_only=True):
    """Which model, and its size."""

    name: Literal["concat_mlp", "popularity", "cooccurrence", "markov", "decayed_markov"] = "concat_mlp"
    embedding_width: AtLeastOne = 50
    hidden_widths: tuple[AtLeastOne, ...] = (100, 50)
    dropout: Dropout = 0.0


class LossSettings(Section, frozen=True, kw_only=True):
    """Which loss, and where the output bias starts."""

    name: Literal["focal", "bce"] = "focal"
    gamma: Gamma = 2.0  # focal: 0 is binary cross-entropy
    alpha: Alpha = 0.25  # weight of positives; 1 - alpha of negatives
    reduction: Reduction = "positives"  # what the sum is divided by
    prior: Fraction = 0.01  # pi: the output bias starts at -log((1 - pi) / pi)


class RankingTrainSettings(TrainSettings, frozen=True, kw_only=True):
    """As TrainSettings; the metric is one of rankings."""

    metric: Annotated[str, Meta(pattern=r"^(map|recall|ndcg|hit|mrr)@[1-9]\d*$")] = "map@3"


class RecommendSettings(Section, frozen=True, kw_only=True):
    """Everything that a `recommend` run depends on, beside the data."""

    seed: AtLeastZero = 0
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    train: RankingTrainSettings = RankingTrainSettings()
