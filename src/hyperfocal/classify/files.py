"""The files of a classifier: a run folder, written and read back, and predictions as a table."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from typing import Any

import polars as pl
import torch
from torch import Tensor

from hyperfocal.classify.combination import Combination
from hyperfocal.classify.finetune import read_encoder, write_encoder
from hyperfocal.classify.head import restore_head
from hyperfocal.classify.indicator import Indicator
from hyperfocal.classify.label_model import Fit, LabelModel, LabelSpace
from hyperfocal.classify.label_texts import LabelTexts
from hyperfocal.classify.new_labels import Headless
from hyperfocal.classify.one_label import Classes
from hyperfocal.classify.opinions import SIMILARITY, LabelReader
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.data.csv_text import safe_cells, unsafe_cell
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.models.example_features import ExampleFeatures
from hyperfocal.models.name_matching import NameMatcher
from hyperfocal.report.run import EVIDENCE
from hyperfocal.storage.manifest import write_manifest
from hyperfocal.storage.run_folder import DATA, MODEL, RunFolder, describe_environment
from hyperfocal.thresholds import Decisions
from hyperfocal.training.run import read_logs, read_plan, read_settings
from hyperfocal.training.weights import read_weights, write_weights

TEXTS = "texts.safetensors"  # checksums of the training texts
OPINIONS = "opinions.json"  # label texts, and how opinions count; missing if the labels have no texts
LABEL_VECTORS = "label_vectors.safetensors"  # an encoder's vectors of the label texts
PAIRS = pl.List(pl.Struct({"label": pl.String, "probability": pl.Float64}))


def write_fit(run: RunFolder, fit: Fit) -> None:
    """Write everything that `read_fit` reads, the weights last, into a run that has begun; RunError if it fails."""
    model, labels = fit.model, fit.model.labels
    names = labels.vocabulary.names
    facts = {
        "items": names,
        "training_documents": labels.counts.tolist(),
        "documents": labels.num_documents,
        "indicator": model.indicator.width if model.indicator else None,
    }
    if model.indicator and not model.indicator.sparse:
        facts["indicator_sparse"] = False
    run.write_json("vocabulary.json", facts | ({"single": model.classes.kind} if model.classes else {}))
    tuned = None if model.encoder is None else write_encoder(run, model.encoder)
    run.write_json("features.json", model.features.to_json() | {"finetuned": tuned})
    run.write_json("thresholds.json", model.decisions.to_json(names))
    if model.reader is not None and model.headless is not None:
        write_reader(run, model.reader, model.combination, model.headless)
    if fit.texts is not None:
        run.write_tensors(TEXTS, {"checksums": fit.texts})
    if labels.taxonomy is not None:
        run.write_json("taxonomy.json", labels.taxonomy.to_json())
    run.write_text("history.jsonl", "".join(json.dumps(row) + "\n" for row in fit.history))
    run.write_json("environment.json", describe_environment())
    run.write_json("metrics.json", fit.metrics)
    run.write_text("labels.csv", safe_cells(pl.DataFrame(fit.label_table)).write_csv())
    if fit.evidence is not None:
        run.write_json(EVIDENCE, fit.evidence)
    write_weights(run, model.head.state_dict())
    write_manifest(run)


def read_fit(run: RunFolder) -> Fit:
    """Return what `write_fit` wrote.

    Raises:
        RunError: the run belongs to the other job or is unfinished; a file is missing or damaged.
        ConfigError: the encoder of the run is not installed.
    """
    settings = read_settings(ClassifySettings, run)
    tensors = read_weights(run)
    metrics, fingerprint = run.read_json("metrics.json"), str(run.read_json(DATA)["fingerprint"])
    labels, indicator, classes = _read_labels(run, settings)
    names = labels.vocabulary.names
    with run.guard("features.json"):
        facts = run.read_json("features.json")
        features = ExampleFeatures.from_json(facts)
        encoder = read_encoder(run, facts["finetuned"]) if settings.features.finetune else None
    with run.guard("thresholds.json"):
        decisions = Decisions.from_json(run.read_json("thresholds.json"), names)
    with run.guard("metrics.json"):
        counted = run.has(OPINIONS) or bool(metrics.get("opinions", {}).get("rows"))
    accepted = read_reader(run, len(names), _num_dense(tensors)) if counted else ()
    with run.guard("labels.csv"):
        label_table = read_label_table(run, names)
    with run.guard("history.jsonl"):
        history = [json.loads(row) for row in run.read_text("history.jsonl").splitlines()]
    with run.guard(MODEL):
        head = restore_head(settings, tensors, len(names))
        if len(tensors.get("wide", ())) != features.num_sparse:
            raise ValueError("it does not match the features in features.json")
    model = LabelModel(settings, labels, features, encoder, head, decisions, indicator, read_plan(run), *accepted)
    model = replace(model, classes=classes)
    with run.guard(TEXTS):
        texts = run.read_tensors(TEXTS)[0]["checksums"] if run.has(TEXTS) else None
    return Fit(model, fingerprint, metrics, label_table, history, texts=texts, logs=read_logs(run))


def write_reader(run: RunFolder, reader: LabelReader, combination: Combination, headless: Headless) -> None:
    """Write what `read_reader` reads."""
    fitted = {"combination": combination.to_json(), "headless": headless.to_json()}
    run.write_json(OPINIONS, fitted | {"texts": reader.texts.to_json()})
    if reader.vectors is not None and reader.center is not None:
        run.write_tensors(LABEL_VECTORS, {"vectors": reader.vectors, "center": reader.center})


def _num_dense(tensors: dict[str, Tensor]) -> int:
    """Return the width of the dense features of a head by its weights; 0 if it has none."""
    weights = tensors.get("hidden.0.weight", tensors.get("weight"))
    return 0 if weights is None else weights.shape[1]


def read_reader(run: RunFolder, num_labels: int, num_dense: int) -> tuple[LabelReader, Combination, Headless]:
    """Return the reader of L label texts, and how its opinions count with and without the head; RunError if damaged."""
    with run.guard(OPINIONS):
        value = run.read_json(OPINIONS)
        combination, headless = Combination.from_json(value["combination"]), Headless.from_json(value["headless"])
        texts = LabelTexts.from_json(value["texts"])
        if len(texts.names) != num_labels:
            raise ValueError(f"{len(texts.names):,} texts for {num_labels:,} labels")
        if SIMILARITY in {*combination.weights, *headless.weights} and not run.has(LABEL_VECTORS):
            raise ValueError(f"{LABEL_VECTORS}, which it needs, is missing")
    matcher = NameMatcher.of(texts.names)
    if not run.has(LABEL_VECTORS):
        return LabelReader(texts, matcher), combination, headless
    with run.guard(LABEL_VECTORS):
        tensors = run.read_tensors(LABEL_VECTORS)[0]
        vectors, center = (tensors[name].clone() for name in ("vectors", "center"))
        if vectors.ndim != 2 or len(vectors) != num_labels or center.shape != vectors.shape[1:]:
            raise ValueError(f"{tuple(vectors.shape)} vectors, {tuple(center.shape)} center, {num_labels:,} labels")
        if vectors.shape[1] > num_dense:  # which are those of the encoder, and columns of vectors
            raise ValueError(f"vectors of {vectors.shape[1]:,} numbers for {num_dense:,} dense features")
    return LabelReader(texts, matcher, vectors, center), combination, headless


def _read_labels(run: RunFolder, settings: ClassifySettings) -> tuple[LabelSpace, Indicator | None, Classes | None]:
    with run.guard("vocabulary.json"):
        facts = run.read_json("vocabulary.json")
        vocabulary, counts = Vocabulary.from_json(json.dumps(facts)), torch.tensor(facts["training_documents"])
        num_documents, width = int(facts["documents"]), facts["indicator"]
        sparse = facts.get("indicator_sparse", True)
        indicator = None if width is None else Indicator.from_json(width, vocabulary.names, sparse=sparse)
        classes = Classes.from_json(facts["single"], vocabulary.names) if settings.data.single else None
        if len(counts) != len(vocabulary):
            raise ValueError(f"{len(counts):,} counts for {len(vocabulary):,} labels")
    with run.guard("taxonomy.json"):
        taxonomy = Taxonomy.from_json(run.read_json("taxonomy.json")) if settings.data.taxonomy else None
    return LabelSpace(vocabulary, taxonomy, counts, num_documents, settings.data.consistent), indicator, classes


def read_label_table(run: RunFolder, names: list[str]) -> list[dict[str, Any]]:
    """Return the rows of labels.csv; raise ValueError if it does not have one for each of the labels `names`.

    Earlier versions wrote the labels as they are. If the labels do not match as written, they were written by
    `safe_cells`: one quote before a label is removed.
    """
    text = StringIO(run.read_text("labels.csv"))
    rows = pl.read_csv(text, schema_overrides={"label": pl.String}, infer_schema_length=None).to_dicts()
    if sorted(row["label"] for row in rows) != sorted(names):
        rows = [row | {"label": unsafe_cell(row["label"])} for row in rows]
    if sorted(row["label"] for row in rows) != sorted(names):
        raise ValueError("it does not have one row for each label")
    return rows


def with_pairs(frame: pl.DataFrame) -> pl.DataFrame:
    """Return predictions of documents with their scores as lists of (label, probability), which a table can hold."""
    pairs = [[{"label": label, "probability": score} for label, score in row.items()] for row in frame["scores"]]
    return frame.with_columns(pl.Series("scores", pairs, dtype=PAIRS))
