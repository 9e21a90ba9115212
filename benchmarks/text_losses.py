"""Every loss on one data set of texts, with the recipe's other settings: test scored once each, by label frequency.

    python benchmarks/text_losses.py [--data FOLDER] [--recipe FILE]

Micro-F1/macro-F1 in percent, at 0.5 and with tuned thresholds. Head, medium and tail are labels with 35 training
documents or more, 9 to 34, and 8 or fewer, as in Huang et al. 2021 (EMNLP), table 2. One seed. Thresholds are tuned on
a stratified tenth that is held out, and the head is then trained again on everything. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.head import score_documents
from hyperfocal.classify.prepare import number
from hyperfocal.data.documents import as_documents
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import default_cache
from hyperfocal.metrics.average_precision import average_precision
from hyperfocal.metrics.decisions import decision_scores
from hyperfocal.metrics.ranking import only

ROOT = Path(__file__).parents[1]
HEAD, TAIL = 35, 8
HELD_OUT = {"train.folds": 0, "train.refit": True, "data.valid_fraction": 0.1}
LOSSES: dict[str, dict[str, Any]] = {
    "BCE": {"loss": "bce"},
    "focal, gamma 2": {"loss": "focal", "gamma": 2.0},
    "CB (BCE)": {"loss": "bce", "cap": "none", "settings": {"loss.weights": "effective_number"}},
    "NTR-focal": {"loss": "ntr_focal", "gamma": 2.0},
    "DB": {"loss": "balanced", "gamma": 2.0},
    "ASL, gamma- 4": {"loss": "asymmetric", "gamma": 4.0},
}


def main() -> None:
    """Train one classifier a loss and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "reuters")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "reuters.toml")
    options = parser.parse_args()
    if not (options.data / "train.jsonl.gz").is_file():
        sys.exit(f"{options.data}: no train.jsonl.gz there. Name its folder with --data")
    os.environ["HF_HUB_OFFLINE"] = "1"
    print("| loss | at 0.5 | tuned | head | medium | tail | macro AP |\n|---|---|---|---|---|---|---|", flush=True)
    for name, arguments in LOSSES.items():
        settings = {**HELD_OUT, **arguments.get("settings", {})}
        classifier = MultiLabelClassifier(options.recipe, **{**arguments, "settings": settings})
        train, test = options.data / "train.jsonl.gz", options.data / "test.jsonl.gz"
        classifier.fit(train, cache=default_cache())
        print(f"| {name} | {' | '.join(row(classifier, train, test))} |", flush=True)


def row(classifier: MultiLabelClassifier, train: Path, test: Path) -> list[str]:
    """Return the cells of one loss."""
    documents = as_documents(test, classifier.settings_.data)
    truth = number(documents, classifier.vocabulary_).labels
    counts = number(as_documents(train, classifier.settings_.data), classifier.vocabulary_).labels.counts()
    scores = score_documents(classifier.head_, classifier.features_.make(documents.texts, default_cache()))
    tuned, half = classifier.decisions_.decide(scores), SparseLabels.from_dense(scores > 0)
    buckets = (counts >= HEAD, (counts > TAIL) & (counts < HEAD), counts <= TAIL)
    cells = [f_scores(half, truth, counts), f_scores(tuned, truth, counts)]
    cells += [f_scores(only(tuned, mask), only(truth, mask), counts) for mask in buckets]
    return [*cells, f"{100 * float(average_precision(scores, truth).nanmean()):.1f}"]


def f_scores(decided: SparseLabels, truth: SparseLabels, counts: Tensor) -> str:
    """Return "micro/macro" in percent; macro over labels with a true document."""
    scores = decision_scores(decided, truth, counts)
    return f"{100 * scores['micro_f1']:.1f}/{100 * scores['macro_f1']:.1f}"


if __name__ == "__main__":
    main()
