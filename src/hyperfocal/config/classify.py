"""The settings of the job `classify`."""

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


class TextDataSettings(Section, frozen=True, kw_only=True):
    """Where text and labels are, and how labels are read."""

    text: tuple[str, ...] = ()  # columns of the text, joined by a line break; () finds them (`text`, `title`, `body`)
    labels: str = ""  # column of the labels; "" is `labels`, or `label`
    separator: str = ""  # between the labels of one text field; "" finds one of | ; , and else takes spaces
    id: str = ""  # column of the document's id; "" is `id`, or without one the number of the row
    group: str = ""  # column whose documents belong together and are never split; "" is each for itself
    valid_fraction: Fraction = 0.15  # share of documents held out where no validation file is given
    taxonomy: str = ""  # file of the label tree: id, parent, name; "" is none
    add_parents: bool = False  # taxonomy: whether a document with a label has its parents too
    consistent: bool = False  # taxonomy: whether a predicted label brings its parents
    stream: Literal["auto", "on", "off"] = "auto"  # documents through mapped files; auto: those too large for memory


class FeatureSettings(Section, frozen=True, kw_only=True):
    """What a text is turned into, once."""

    kind: Literal["auto", "ngrams", "encoder", "both"] = "auto"  # auto: both, without an encoder installed ngrams
    word_ngrams: AtLeastZero = 2  # longest n-gram of words; 0 is none
    char_ngrams: AtLeastZero = 0  # longest n-gram of characters inside words, from 3 on; 0 is none
    min_documents: AtLeastOne = 2  # an n-gram in fewer documents is left out
    max_features: AtLeastOne = 100_000  # n-grams kept of words, and of characters: the most frequent
    hashed: bool = False  # whether n-grams are hashed to max_features columns, without a vocabulary
    encoder: str = ""  # sentence-transformers name or folder; "" is the one that is installed as a package
    encoder_batch: AtLeastOne = 32  # texts at once
    finetune: bool = False  # whether the encoder is trained too, end to end; kind is then encoder


class HeadSettings(Section, frozen=True, kw_only=True):
    """What turns features into a score a label."""

    name: Literal["mlp", "linear"] = "mlp"
    width: AtLeastOne = 512  # mlp: of the hidden layer
    dropout: Dropout = 0.5  # mlp: of the hidden layer
    input_dropout: Dropout = 0.0  # of the features


class TextLossSettings(Section, frozen=True, kw_only=True):
    """Which loss, and how much a rare label weighs."""

    name: Literal["bce", "focal", "asymmetric", "ntr_focal", "balanced", "softmax"] = "bce"
    gamma: Gamma = 2.0  # focal, ntr_focal, balanced; of the negatives for asymmetric
    alpha: Alpha = "none"  # focal: weight of positives; 1 - alpha of negatives
    weights: Weighting = "inverse"  # scheme, where cap is set
    cap: Cap = "off"
    reduction: Reduction = "batch"  # what the sum is divided by


class DecisionSettings(Section, frozen=True, kw_only=True):
    """How scores become labels."""

    rule: Literal["half", "global", "per_label", "top_k"] = "per_label"
    objective: Literal["micro", "macro", "both", "f_beta"] = "both"  # what the threshold is tuned for
    beta: Annotated[float, Meta(ge=0.01, le=100)] = 1.0  # f_beta: above 1 recall counts more
    k: AtLeastOne = 3  # top_k: labels a document
    shrinkage: NotNegative = 10.0  # per_label: positives at which a label's own threshold counts half
    minimum_one: bool = False  # whether a document without a decided label gets its best one


class TextTrainSettings(TrainSettings, frozen=True, kw_only=True):
    """As TrainSettings; the metric needs no threshold."""

    folds: AtLeastZero = 0  # of cross-validation: all documents train, decisions come from out-of-fold scores; 0: none
    refit: bool = False  # whether the head is trained again on training and validation documents, once all is tuned
    learning_rate: Annotated[float, Meta(gt=0)] = 0.001
    encoder_learning_rate: Annotated[float, Meta(gt=0)] = 2e-5  # of an encoder that is fine-tuned
    sparse_learning_rate: Annotated[float, Meta(gt=0)] = 500.0  # of plain SGD, for the weights of n-grams
    optimizer: OptimizerName = "adamw"
    weight_decay: NotNegative = 0.01
    epochs: AtLeastOne = 8
    schedule: Literal["constant", "cosine"] = "cosine"
    patience: AtLeastZero = 0
    metric: Literal["macro_ap", "micro_ap", "ndcg@5", "precision@1"] = "macro_ap"


def trainings(settings: TextTrainSettings) -> int:
    """Return how many heads one `fit` trains: one a fold and the last, which has seen everything."""
    return settings.folds + 1 + int(settings.refit)


class ClassifySettings(Section, frozen=True, kw_only=True):
    """Everything that a `classify` run depends on, beside the data."""

    seed: AtLeastZero = 0
    data: TextDataSettings = TextDataSettings()
    features: FeatureSettings = FeatureSettings()
    head: HeadSettings = HeadSettings()
    loss: TextLossSettings = TextLossSettings()
    decide: DecisionSettings = DecisionSettings()
    train: TextTrainSettings = TextTrainSettings()
