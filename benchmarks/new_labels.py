"""Scores of labels that training never saw: a tenth of the labels are removed from training, by frequency.

    python benchmarks/new_labels.py COOKING [--seeds 3]

COOKING is a folder with train.jsonl.gz and test.jsonl.gz. The labels are ranked by frequency, and one of each ten
neighbors is drawn and removed from all training documents. Then the test documents are ranked:

    AP            mean average precision of the removed labels: do they rank the right documents first?
    recall@10     share of the true pairs of removed labels that are among the 10 best of all labels of the document
    of new        the same among the 10 best of the removed labels alone

The peer ranks all labels by the cosine of the encoder's vectors of text and label name, without a mean.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch

from hyperfocal import MultiLabelClassifier
from hyperfocal.classify.opinions import SCALE, SIMILARITY
from hyperfocal.classify.prepare import number
from hyperfocal.classify.scores import seen_and_new
from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import default_cache
from hyperfocal.metrics.average_precision import average_precision

COLUMNS = TextDataSettings(text=("title", "body"))
GROUP = 10  # neighbors by frequency, of which one label is removed
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--boosts", type=float, nargs="+", default=[0.0, 1.0, 2.0])
    asked = parser.parse_args()
    train, test = (as_documents(asked.folder / f"{part}.jsonl.gz", COLUMNS) for part in ("train", "test"))
    print(f"{'seed':>4} {'scores':24} {'AP':>6} {'recall@10':>9} {'of new':>7} {'recall@10 of the others':>23}")
    for seed in range(asked.seeds):
        measure(train, test, seed, asked.boosts)


def measure(train: Documents, test: Documents, seed: int, boosts: list[float]) -> None:
    removed = draw(train, seed)
    names = pl.Series(removed, dtype=pl.String)
    seen = pl.Series([[label for label in row if label not in set(removed)] for row in train.labels.to_list()])
    rest = Documents(train.ids, train.texts, seen.cast(pl.List(pl.String)), train.groups, train.plan)
    recipe = ROOT / "recipes" / "cooking.toml"
    classifier = MultiLabelClassifier(recipe, settings={"train.folds": 0}, seed=seed)
    classifier.fit(rest, cache=default_cache())
    for boost in boosts:
        wider = classifier.with_new_labels(names.to_list(), boost=boost)
        answer = wider.fit_.model.answer(test.all_texts())
        truth = number(test, wider.vocabulary_).labels
        old, new = seen_and_new(answer.scores, truth, len(names))
        report(
            seed, f"ours, boost {boost:g}", answer.scores[:, -len(names) :], truth, new["recall@10"], old["recall@10"]
        )
    dense = wider.features_.text.make(test.all_texts(), default_cache()).dense
    model = wider.fit_.model
    blocks = []
    for reader, labels in ((model.reader, len(model.labels.vocabulary) - len(names)), (model.new.reader, len(names))):
        part = torch.zeros(len(test), labels)
        reader.of(test.all_texts(), dense, [SIMILARITY])[SIMILARITY].add_to(part, 1.0)
        blocks.append(part + SCALE * (reader.vectors @ reader.center))
    cosine = torch.cat(blocks, 1)
    old, new = seen_and_new(cosine, truth, len(names))
    report(seed, "cosine alone", cosine[:, -len(names) :], truth, new["recall@10"], old["recall@10"])


def draw(train: Documents, seed: int) -> list[str]:
    counts = train.labels.explode().drop_nulls().value_counts(sort=True)
    names = counts.sort(["count", "labels"], descending=[True, False])["labels"].to_list()
    rng = np.random.default_rng(seed)
    return sorted(names[start + int(rng.integers(GROUP))] for start in range(0, len(names) - GROUP + 1, GROUP))


def report(
    seed: int, name: str, scores: torch.Tensor, truth: SparseLabels, recall: float | None, others: float | None
) -> None:
    own = truth.to_dense()[:, -scores.shape[1] :].bool()
    precision = float(average_precision(scores, SparseLabels.from_dense(own)).nanmean())
    best = torch.zeros_like(own).scatter_(1, scores.topk(min(10, scores.shape[1]), dim=1).indices, value=True)
    among = float((best & own).sum() / own.sum())
    cells = ["-" if value is None else f"{value:.3f}" for value in (recall, others)]
    print(f"{seed:4} {name:24} {precision:6.3f} {cells[0]:>9} {among:7.3f} {cells[1]:>23}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
