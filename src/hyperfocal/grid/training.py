"""What the points of a grid share, prepared once, and how one of them is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch import Tensor

from hyperfocal.cache import hash_of
from hyperfocal.config.classify import ClassifySettings, TextDataSettings
from hyperfocal.data.stratify import refuse_shared_groups
from hyperfocal.data.texts import Documents
from hyperfocal.errors import ConfigError
from hyperfocal.grid.points import Point, flatten
from hyperfocal.models.encoder import find_encoder
from hyperfocal.tasks.classify import MultiLabelClassifier
from hyperfocal.tasks.documents import PreparedTexts, number, with_tree_labels
from hyperfocal.tasks.features import TextFeatures, check_training, resolve_kind
from hyperfocal.train import set_threads


@dataclass(frozen=True, eq=False)
class Material:
    """The documents of a grid, split by the base settings' seed, and where their features are kept.

    Attributes:
        data: training and validation documents.
        cache: folder of the features.
        threads: CPU threads of one training; 0 is one a core, in a worker process 1.
        encoder: checksum of the encoder, "" without.
    """

    data: PreparedTexts
    cache: Path
    threads: int
    encoder: str

    def fingerprint(self) -> str:
        """Return a checksum of the documents, their labels and split, and the encoder."""
        return hash_of(self.data.fingerprint(), self.encoder)


def prepare_grid(
    data: PreparedTexts,
    points: Sequence[Point],
    base: ClassifySettings,
    *,
    cache: Path,
    threads: int = 0,
    watch: Callable[[int, int], None] = lambda *_: None,
) -> Material:
    """Compute all features that the points need, so that each finds them.

    Raises:
        ConfigError: features that are not to be had.
    """
    set_threads(base.train.threads)
    for point in points:
        check_training(point.settings)
    used = {resolve_kind(point.settings.features) for point in points}
    for settings in used:
        features = TextFeatures.fit(data.train.documents.texts, settings, cache)
        for part in () if settings.finetune else (data.train, data.valid):  # that makes its own as it learns
            features.make(part.documents.texts, cache, watch)
    encoders = {settings.encoder for settings in used if settings.kind != "ngrams"}
    found = [find_encoder(name) for name in sorted(encoders)]
    return Material(data, cache, threads, hash_of(*[source.checksum for source in found if source]) if found else "")


def check_test(data: PreparedTexts, test: Documents, settings: TextDataSettings) -> None:
    """Make sure that test documents can be scored, and that nothing was learnt from them.

    Raises:
        DataError: a label that the taxonomy lacks; no label that training has.
        LeakError: a group, or an id, stands in test and in training or validation.
    """
    for part in (data.train, data.valid):
        refuse_shared_groups(part.documents, test, name="test")
    number(with_tree_labels(test, data.taxonomy, settings), data.vocabulary).refuse_unlabelled("test documents")


def train_point(material: Material, point: Point) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Train one point; return every metric on the validation documents, and the main ones in resamples.

    The documents are split by the base settings, whatever the point's seed.
    """
    settings = flatten(msgspec.to_builtins(point.settings))
    settings |= {"train.threads": material.threads, "train.refit": False}  # the winner is refitted, once
    classifier = MultiLabelClassifier(settings=settings)
    classifier.score_prepared(material.data, cache=material.cache)
    return classifier.metrics_["values"], classifier.resamples_


def check_workers(workers: int, cores: int) -> int:
    """Return the CPU threads of each of some workers: workers x threads <= cores.

    Raises:
        ConfigError: workers below 1, or more than cores: they would take turns and slow each other 10-40 times.
    """
    if not 1 <= workers <= cores:
        raise ConfigError(f"--workers {workers} is not allowed. Expected 1 to {cores}, the cores of this machine")
    return cores // workers
