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
    Reduction,
    Section,
    TrainSettings,
    Weighting,
)

CAUSAL = ("transformer", "gru", "mean")  # encoders that read histories of any length, and learn from every position
COUNTING = (
    "popularity",
    "cooccurrence",
    "markov",
    "decayed_markov",
    "item_knn",
    "ease",
)  # baselines, which train nothing
MODEL_NAMES = (*CAUSAL, "concat_mlp", *COUNTING)


class DataSettings(Section, frozen=True, kw_only=True):
    """Where the columns are and how a history becomes an example."""

    user: str = ""  # column of the user id; "" finds it (`user`, or the first of three columns)
    item: str = ""  # column of the item id; "" likewise
    order: str = ""  # column of the position or time stamp; without one, the order of the file
    history: AtLeastOne = 50  # items that the network reads: concat_mlp always so many, the others at most
    next: AtLeastOne = 3  # items that are the target, and that `predict` returns by default
    ahead: AtLeastOne = 1  # transformer, gru, mean: items after each position that are its targets in training
    examples: Literal["last", "every"] = "every"  # concat_mlp: one cut a training user, before the last `next`, or all
    order_kind: Literal["auto", "position", "time"] = "auto"  # positions are unique; auto: integers below 10 million
    protocol: Literal["users", "leave-one-out"] = "users"  # hold out users, or the last two items of each user
    valid_fraction: Fraction = 0.1  # share of users held out where no validation file is given


class ModelSettings(Section, frozen=True, kw_only=True):
    """Which model, and its size."""

    name: Literal[
        "transformer",
        "gru",
        "mean",
        "concat_mlp",
        "popularity",
        "cooccurrence",
        "markov",
        "decayed_markov",
        "item_knn",
        "ease",
    ] = "transformer"
    embedding_width: AtLeastOne = 64  # of an item; for transformer a multiple of twice the heads
    hidden_widths: tuple[AtLeastOne, ...] = (100, 50)  # concat_mlp
    dropout: Dropout = 0.2
    layers: AtLeastOne = 2  # transformer, gru
    heads: AtLeastOne = 2  # transformer
    positions: Literal["learned", "rotary", "none"] = "learned"  # transformer: how it knows the order
    filter: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # transformer: share of a causal filter beside the attention
    feed_forward: AtLeastOne = 4  # transformer: width of the feed-forward layer, in embedding widths
    blend: bool = False  # networks: rank by their blend with decayed_markov, whose weight validation users choose
    decay: Annotated[float, Meta(gt=0, le=1)] = 0.8  # mean: weight of an item against the next newer one


class ItemSettings(Section, frozen=True, kw_only=True):
    """What the network learns of the items from a table of them."""

    features: tuple[str, ...] = ()  # columns; () is all. Their kinds are told from the values, or by topics:list
    drop: Annotated[float, Meta(ge=0, lt=1)] = 0.1  # share of items known by features alone in a training step
    boost: Annotated[float, Meta(ge=-10, le=10)] = 0.0  # added to the scores of new items; 1 is 2.7 times as likely


class LossSettings(Section, frozen=True, kw_only=True):
    """Which loss, and where the output bias starts."""

    name: Literal["focal", "bce", "asymmetric", "softmax", "gbce", "sampled_softmax"] = "softmax"
    gamma: Gamma = 2.0  # focal: 0 is binary cross-entropy; asymmetric: of the negatives
    alpha: Alpha = 0.25  # focal: weight of positives; 1 - alpha of negatives
    weights: Weighting = "inverse"  # how much more the positives of rarer items weigh, where cap is set
    cap: Cap = "off"  # largest weight
    tau: NotNegative = 0.0  # softmax: strength of logit adjustment, training against log frequencies; 0 is off
    negatives: AtLeastOne = 256  # gbce, sampled_softmax: items drawn a batch
    reduction: Reduction = (
        "batch"  # what the sum is divided by: batch, the positions that learn; positives, their targets
    )
    prior: Fraction = 0.01  # pi: the output bias starts at -log((1 - pi) / pi)


class RankingTrainSettings(TrainSettings, frozen=True, kw_only=True):
    """As TrainSettings, with the values that suit a transformer; the metric is one of rankings."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Meta(gt=0)] = 0.001
    batch_size: AtLeastOne = 128  # users, or for concat_mlp examples, a step
    epochs: AtLeastOne = 20  # at most
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: AtLeastZero = 100
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where the network learns; auto is cuda where there is one
    minutes: NotNegative = 0.0  # of training at most, to the end of an epoch; the best weights so far stay; 0 is off
    metric: Annotated[str, Meta(pattern=r"^(map|recall|ndcg|hit|mrr)@[1-9]\d*$")] = "map@3"


class RecommendSettings(Section, frozen=True, kw_only=True):
    """Everything that a `recommend` run depends on, beside the data."""

    seed: AtLeastZero = 0
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    items: ItemSettings = ItemSettings()
    loss: LossSettings = LossSettings()
    train: RankingTrainSettings = RankingTrainSettings()
