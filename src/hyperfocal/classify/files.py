"""A classifier in its run folder: written, and read again."""

from __future__ import annotations

import json
from io import StringIO
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from hyperfocal.classify.finetune import keep_encoder, restore_encoder
from hyperfocal.classify.head import restore_head
from hyperfocal.classify.indicator import Indicator
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.models.text_features import TextFeatures
from hyperfocal.storage.run_folder import DATA, MODEL, RunFolder, describe_environment
from hyperfocal.thresholds import Decisions
from hyperfocal.training.run import read_settings

if TYPE_CHECKING:
    from hyperfocal.classify.classifier import MultiLabelClassifier


def keep_classifier(run: RunFolder, classifier: MultiLabelClassifier) -> None:
    """Write everything that `restore_classifier` reads, the weights last.

    Raises:
        RunError: it cannot be written.
    """
    names, indicator = classifier.vocabulary_.ids.to_list(), classifier.indicator_
    facts = {
        "items": names,
        "training_documents": classifier.counts_.tolist(),
        "documents": classifier.num_documents_,
        "indicator": indicator.width if indicator else None,
    }
    run.write_json("vocabulary.json", facts)
    tuned = None if classifier.encoder_ is None else keep_encoder(run, classifier.encoder_)
    run.write_json("features.json", classifier.features_.to_json() | {"finetuned": tuned})
    run.write_json("thresholds.json", classifier.decisions_.to_json(names))
    if classifier.taxonomy_ is not None:
        run.write_json("taxonomy.json", classifier.taxonomy_.to_json())
    run.write_text("history.jsonl", "".join(json.dumps(row) + "\n" for row in classifier.history_))
    run.write_json("environment.json", describe_environment())
    run.write_json("metrics.json", classifier.metrics_)
    run.write_text("labels.csv", pl.DataFrame(classifier.labels_).write_csv())
    run.write_tensors(MODEL, classifier.head_.state_dict())
    run.write_manifest()


def restore_classifier(run: RunFolder, classifier: MultiLabelClassifier) -> None:
    """Give an unfitted classifier all that the run has kept.

    Raises:
        RunError: a run of the other job, an unfinished one, or a file that is missing or damaged.
        ConfigError: the encoder of the run is not installed.
    """
    classifier.settings_ = settings = read_settings(ClassifySettings, run)
    tensors, _ = run.read_tensors(MODEL)
    classifier.metrics_ = run.read_json("metrics.json")
    classifier.fingerprint_ = str(run.read_json(DATA)["fingerprint"])
    with run.guard("vocabulary.json"):
        _restore_labels(classifier, run.read_json("vocabulary.json"))
    names = classifier.vocabulary_.ids.to_list()
    with run.guard("taxonomy.json"):
        tree = run.read_json("taxonomy.json") if settings.data.taxonomy else None
        classifier.taxonomy_ = None if tree is None else Taxonomy.from_json(tree)
    with run.guard("features.json"):
        facts = run.read_json("features.json")
        classifier.features_ = TextFeatures.from_json(facts)
        classifier.encoder_ = restore_encoder(run, facts["finetuned"]) if settings.features.finetune else None
    with run.guard("thresholds.json"):
        classifier.decisions_ = Decisions.from_json(run.read_json("thresholds.json"), names)
    with run.guard("labels.csv"):
        classifier.labels_ = _label_rows(run.read_text("labels.csv"), names)
    with run.guard("history.jsonl"):
        classifier.history_ = [json.loads(row) for row in run.read_text("history.jsonl").splitlines()]
    with run.guard(MODEL):
        classifier.head_ = restore_head(settings, tensors, len(names))
        if len(tensors.get("wide", ())) != classifier.features_.num_sparse:
            raise ValueError("it is not over the features in features.json")


def _restore_labels(classifier: MultiLabelClassifier, facts: dict[str, Any]) -> None:
    classifier.vocabulary_ = Vocabulary.from_json(json.dumps(facts))
    classifier.counts_, classifier.num_documents_ = torch.tensor(facts["training_documents"]), int(facts["documents"])
    width, names = facts["indicator"], classifier.vocabulary_.ids.to_list()
    classifier.indicator_ = None if width is None else Indicator.from_json(width, names)
    if len(classifier.counts_) != len(classifier.vocabulary_):
        raise ValueError(f"{len(classifier.counts_):,} counts for {len(classifier.vocabulary_):,} labels")


def _label_rows(text: str, names: list[str]) -> list[dict[str, Any]]:
    """Return the rows of labels.csv.

    Raises:
        ValueError: it is not a table with a row a label.
    """
    try:
        rows = pl.read_csv(StringIO(text), schema_overrides={"label": pl.String}, infer_schema_length=None).to_dicts()
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error)) from None
    if sorted(row["label"] for row in rows) != sorted(names):
        raise ValueError("it has not a row for each label in vocabulary.json")
    return rows
