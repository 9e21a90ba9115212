"""The memory that training a head on documents needs at least."""

from __future__ import annotations

from hyperfocal.classify.prepare import PreparedTexts
from hyperfocal.config.classify import ClassifySettings, FeatureSettings
from hyperfocal.data.ngrams import analyzers
from hyperfocal.distributed import world_size
from hyperfocal.training.memory import NUMBER, Estimate, check_memory, state_bytes

KEYS = ("features.max_features", "head.width", "train.batch_size")
WEIGHT_BYTES = 12  # of a hashed n-gram: its count in float64, and its weight in float32


def check_head_memory(
    data: PreparedTexts, settings: ClassifySettings, *, num_sparse: int | None = None, num_dense: int | None = None
) -> None:
    """Raise ConfigError if the head of the settings surely does not fit in memory.

    Args:
        data: the documents, which give the numbers of labels and of rows.
        settings: of the run.
        num_sparse: V, columns of the sparse features. None: `max_features` for each kind of n-gram if they are hashed,
            else 0, because they are not counted yet.
        num_dense: columns of the dense features. None: 1 if an encoder is asked for, else 0.
    """

    def count(settings: ClassifySettings) -> int:
        sparse = _hashed_columns(settings.features) if num_sparse is None or settings.features.hashed else num_sparse
        dense = int(settings.features.kind in ("encoder", "both")) if num_dense is None else num_dense
        return head_bytes(settings, sparse, dense, labels, (len(data.train), len(data.valid)))

    labels = data.train.labels.num_labels
    check_memory(settings, Estimate(count, KEYS, f"{labels:,} labels"))


def head_bytes(
    settings: ClassifySettings, num_sparse: int, num_dense: int, labels: int, documents: tuple[int, int]
) -> int:
    """Return the bytes that a training needs at least.

    With V sparse and D dense columns, L labels, W = head.width (D for a linear head), B the documents of a batch and N
    those of validation:

        4 * 2 V L                           weights of n-grams, and the best of them so far; plain SGD has no state
        12 V                                counts and weights of hashed n-grams
        4 (3 + s) (L W + L + D W + W)       the dense layers, with the s numbers of the optimizer's state
        4 * 2 B L, or 4 B W without V       the logits of a batch and their gradient, or its hidden layer
        4 N L                               the scores of the validation documents
    """
    mlp = settings.head.name == "mlp"
    width = (settings.head.width if mlp else num_dense) if num_dense else 0
    layers = labels * width + labels + (num_dense * width + width if num_dense and mlp else 0)
    rows = min(settings.train.batch_size, documents[0]) // world_size()
    batch = 2 * rows * labels if num_sparse else rows * width
    hashed = WEIGHT_BYTES * num_sparse if settings.features.hashed else 0
    numbers = 2 * num_sparse * labels + batch + documents[1] * labels
    return NUMBER * numbers + hashed + state_bytes(layers, settings.train)


def _hashed_columns(settings: FeatureSettings) -> int:
    if not settings.hashed or settings.kind == "encoder":
        return 0
    return settings.max_features * len(analyzers(settings))
