"""The settings of the job `recommend`."""

from typing import Annotated, Literal

from msgspec import Meta

from hyperfocal.config.sections import (
    Alpha,
    AtLeastOne,
    AtLeastZero,
    Cap,
    Dropout,
    Fraction,
    Gamma,
    NotNegative,
    OptimizerName,
    Reduction,
    Section,
    TrainSettings,
    Weighting,
)

CAUSAL = ("transformer", "gru", "mean")  # encoders that read histories of any length and learn from every position
COUNTING = ("popularity", "cooccurrence", "markov", "decayed_markov", "item_knn", "ease", "user_knn")  # no training
MODEL_NAMES = (*CAUSAL, "concat_mlp", *COUNTING)


class DataSettings(Section, frozen=True, kw_only=True):
    """The columns of the log, and how a history becomes an example."""

    user: str = ""  # column of the user id; "" is `user`, or the first of three columns
    item: str = ""  # column of the item id; "" is `item`, or the second of three columns
    order: str = ""  # column of the position or time stamp; "none": rows are oldest first
    history: AtLeastOne = 50  # items that the network reads: at most, or exactly for concat_mlp
    next: AtLeastOne = 3  # items that are the target, and that `predict` returns by default
    ahead: AtLeastOne = 1  # transformer, gru, mean: items after each position that are its training targets
    examples: Literal["last", "every"] = "every"  # concat_mlp: each user's last example, or every example
    order_kind: Literal["auto", "position", "time"] = "auto"  # auto: integers below 10 million are positions
    protocol: Literal["users", "leave-one-out", "time"] = "users"  # what is held out
    until: str = ""  # protocol time: a moment; events before it train, later ones validate
    horizon: NotNegative = 0.0  # protocol time: days after the moment, in which events validate; 0: any later time
    stream: Literal["auto", "on", "off"] = "auto"  # read through mapped files; auto: a log too large for memory
    valid_fraction: Fraction = 0.1  # fraction of the users held out if there is no validation file


class ModelSettings(Section, frozen=True, kw_only=True):
    """The model and its size."""

    # fmt: off
    name: Literal[
        "transformer", "gru", "mean", "concat_mlp",
        "popularity", "cooccurrence", "markov", "decayed_markov", "item_knn", "ease", "user_knn",
    ] = "transformer"
    # fmt: on
    embedding_width: AtLeastOne = 64  # of an item; for transformer a multiple of twice the heads
    hidden_widths: tuple[AtLeastOne, ...] = (100, 50)  # concat_mlp
    dropout: Dropout = 0.2
    layers: AtLeastOne = 2  # transformer, gru
    heads: AtLeastOne = 2  # transformer
    positions: Literal["learned", "rotary", "none"] = "learned"  # transformer: the encoding of positions
    filter: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # transformer: weight of a causal filter against attention
    feed_forward: AtLeastOne = 4  # transformer: width of the feed-forward layer, in embedding widths
    blend: Literal["auto"] | bool = False  # networks: rank by the blend; auto: by the best row on validation users
    decay: Annotated[float, Meta(gt=0, le=1)] = 0.8  # mean: weight of an item relative to the next newer item


class ItemSettings(Section, frozen=True, kw_only=True):
    """The features of the items, from a table, that the network uses."""

    features: tuple[str, ...] = ()  # columns; () is all. Types come from the values, or from names like topics:list
    drop: Annotated[float, Meta(ge=0, lt=1)] = 0.1  # fraction of the items that a training step knows by features only
    boost: Annotated[float, Meta(ge=-10, le=10)] = 0.0  # added to the scores of new items; 1 is 2.7 times as likely


class LossSettings(Section, frozen=True, kw_only=True):
    """The loss, and the initial output bias."""

    name: Literal["focal", "bce", "asymmetric", "softmax", "gbce", "sampled_softmax"] = "softmax"
    gamma: Gamma = 2.0  # focal: 0 is binary cross-entropy; asymmetric: of the negatives
    alpha: Alpha = 0.25  # focal: weight of positives; negatives get 1 - alpha
    weights: Weighting = "inverse"  # scheme of the weights of rare items, used if cap is set
    cap: Cap = "off"  # largest weight
    tau: NotNegative = 0.0  # softmax: strength of logit adjustment by log frequencies; 0 is off
    negatives: AtLeastOne = 256  # gbce, sampled_softmax: items drawn per batch
    reduction: Reduction = "batch"  # the divisor of the sum; batch: training positions; positives: their targets
    prior: Fraction = 0.01  # pi: the output bias starts at -log((1 - pi) / pi)


class RankingTrainSettings(TrainSettings, frozen=True, kw_only=True):
    """TrainSettings with defaults for a transformer; the metric is a ranking metric."""

    optimizer: OptimizerName = "adamw"
    learning_rate: Annotated[float, Meta(gt=0)] = 0.001
    batch_size: AtLeastOne = 128  # users per step; for concat_mlp examples per step
    epochs: AtLeastOne = 20  # at most
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: AtLeastZero = 100
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where the network trains; auto is cuda if available
    minutes: NotNegative = 0.0  # limit, checked after each epoch; the best weights so far are kept; 0 is off
    metric: Annotated[str, Meta(pattern=r"^(map|recall|ndcg|hit|mrr)@[1-9]\d*$")] = "map@3"


class RecommendSettings(Section, frozen=True, kw_only=True):
    """Everything except the data that a `recommend` run depends on."""

    seed: AtLeastZero = 0
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    items: ItemSettings = ItemSettings()
    loss: LossSettings = LossSettings()
    train: RankingTrainSettings = RankingTrainSettings()
