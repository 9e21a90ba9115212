"""The settings of the job `classify`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
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
    """The columns of the documents, the label tree, and the split."""

    text: tuple[str, ...] = ()  # columns, joined by a line break; () is `text`, else `title` and `body`
    fields: tuple[str, ...] = ()  # columns beside the text, optionally with a kind, as section:category
    vectors: tuple[str, ...] = ()  # columns of fixed-length lists of numbers
    scaling: Literal["auto", "none", "l2", "idf_l2", "standard"] = "auto"  # of a feature matrix; auto: by validation
    labels: str = ""  # column of the labels; "" is `labels` or `label`
    separator: str = ""  # between the labels in one field; "" is the first of | ; , that occurs, else spaces
    id: str = ""  # column of the document's id; "" is `id`, or the row number if there is no such column
    group: str = ""  # column of groups that a split keeps together; "" is no groups
    weight: str = ""  # column of weights, 0 or more, by which documents count; "": each counts 1
    unknown: str = ""  # column of labels that nobody annotated, which count neither as right nor as wrong; "": none
    valid_fraction: Fraction = 0.15  # fraction of the documents held out if there is no validation file
    taxonomy: str = ""  # file of the label tree: id, parent, name; "" is none
    add_parents: bool = False  # taxonomy: whether a document also gets the parents of its labels
    consistent: bool = False  # taxonomy: whether a predicted label adds its parents
    single: bool = False  # whether each document has exactly one label; then a field is one label, or parts at |
    stream: Literal["auto", "on", "off"] = "auto"  # read through mapped files; auto: a file too large for memory


class FeatureSettings(Section, frozen=True, kw_only=True):
    """The features of a text, computed once."""

    kind: Literal["auto", "ngrams", "encoder", "both"] = "auto"  # auto: both, or ngrams if no encoder is installed
    word_ngrams: AtLeastZero = 2  # longest word n-gram; 0 is none
    char_ngrams: AtLeastZero = 0  # longest character n-gram inside words, 3 or more; 0 is none
    min_documents: AtLeastOne = 2  # n-grams in fewer documents are dropped
    max_features: AtLeastOne = 100_000  # n-grams of words, and n-grams of characters: the most frequent
    hashed: bool = False  # whether n-grams are hashed to max_features columns, without a vocabulary
    encoder: str = ""  # sentence-transformers name or folder; "" is the encoder installed as a package
    encoder_batch: AtLeastOne = 32  # texts per batch
    label_texts: str = "names"  # names: labels are words to look for in texts; off; or a file: label, name, description
    finetune: bool = False  # whether the encoder is trained end to end; needs kind encoder


class HeadSettings(Section, frozen=True, kw_only=True):
    """The network from features to one score per label."""

    name: Literal["mlp", "linear"] = "mlp"
    width: AtLeastOne = 512  # mlp: width of the hidden layer
    dropout: Dropout = 0.5  # mlp: dropout of the hidden layer
    input_dropout: Dropout = 0.0  # dropout of the features


class TextLossSettings(Section, frozen=True, kw_only=True):
    """The loss, and the weights of rare labels."""

    name: Literal["bce", "focal", "asymmetric", "ntr_focal", "balanced", "softmax", "softmax_focal"] = "bce"
    gamma: Gamma = 2.0  # focal, ntr_focal, balanced, softmax_focal; for asymmetric: of the negatives
    alpha: Alpha = "none"  # focal: weight of positives; negatives get 1 - alpha
    adjust: NotNegative = 0.0  # softmax, softmax_focal: training adds adjust * log(frequency) to the logits; 0: off
    weights: Weighting = "inverse"  # scheme, used if cap is set
    cap: Cap = "off"
    reduction: Reduction = "batch"  # the divisor of the sum


class DecisionSettings(Section, frozen=True, kw_only=True):
    """The rule that turns scores into labels."""

    rule: Literal["half", "global", "per_label", "top_k", "argmax", "balanced"] = "per_label"  # the last two: one label
    objective: Literal["micro", "macro", "both", "f_beta", "recall"] = "both"  # recall: balanced accuracy
    beta: Annotated[float, Meta(ge=0.01, le=100)] = 1.0  # f_beta: above 1, recall counts more
    k: AtLeastOne = 3  # top_k: labels per document
    shrinkage: NotNegative = 10.0  # per_label, balanced: positives at which own and shared threshold count equally
    minimum_one: bool = False  # whether a document without a decided label gets its best label


class TextTrainSettings(TrainSettings, frozen=True, kw_only=True):
    """TrainSettings with defaults for texts; the metric needs no threshold."""

    folds: AtLeastZero = 0  # of cross-validation: train on all documents, decide by out-of-fold scores; 0 is off
    baselines: Literal["auto", "all", "off"] = "auto"  # scored beside the head; auto: those that take little time
    refit: bool = False  # whether the tuned head is trained again, on training and validation documents
    learning_rate: Annotated[float, Meta(gt=0)] = 0.001
    encoder_learning_rate: Annotated[float, Meta(gt=0)] = 2e-5  # of a fine-tuned encoder
    sparse_learning_rate: Annotated[float, Meta(gt=0)] = 500.0  # of plain SGD on the weights of n-grams
    optimizer: OptimizerName = "adamw"
    weight_decay: NotNegative = 0.01
    epochs: AtLeastOne = 8
    schedule: Literal["constant", "cosine"] = "cosine"
    patience: AtLeastZero = 0
    metric: Literal["macro_ap", "micro_ap", "ndcg@5", "precision@1"] = "macro_ap"


def trainings(settings: TextTrainSettings) -> int:
    """Return how many heads one `fit` trains: one per fold, one on all training documents, and one for refit."""
    return settings.folds + 1 + int(settings.refit)


ONE_LABEL = {  # defaults with data.single
    "loss.name": "softmax",
    "decide.rule": "argmax",
    "data.separator": "|",
}
ONE_RULES = ("argmax", "balanced")  # decide exactly one label
SOFTMAX = ("softmax", "softmax_focal")


class ClassifySettings(Section, frozen=True, kw_only=True):
    """Everything except the data that a `classify` run depends on."""

    seed: AtLeastZero = 0
    data: TextDataSettings = TextDataSettings()
    features: FeatureSettings = FeatureSettings()
    head: HeadSettings = HeadSettings()
    loss: TextLossSettings = TextLossSettings()
    decide: DecisionSettings = DecisionSettings()
    train: TextTrainSettings = TextTrainSettings()

    def __post_init__(self) -> None:
        """Read the rule "half" as "argmax" if documents have one label each: both tune nothing."""
        if self.data.single and self.decide.rule == "half":
            msgspec.structs.force_setattr(self, "decide", msgspec.structs.replace(self.decide, rule="argmax"))

    @classmethod
    def implied(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of documents with one label each, if the values ask for them."""
        data = values.get("data")
        return dict(ONE_LABEL) if isinstance(data, Mapping) and data.get("single") is True else {}
