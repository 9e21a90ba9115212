"""Measure what an update of a classifier forgets and learns, on synthetic documents.

    python benchmarks/forgetting.py

Of 30 labels with 15 training documents or more, no document is in the first half of the training documents. Printed are
macro average precision on the test documents, of the earlier labels and of the new ones, and F1 of all labels: after a
fit on the first half, after an update with the second half, after one in which only new labels are annotated, after
calls of `partial_fit` with 200 documents each, and after a fit on all documents. It takes less than a minute.
"""

from __future__ import annotations

from copy import copy

import numpy as np
import polars as pl

from hyperfocal import MultiLabelClassifier
from hyperfocal.data.synthetic_documents import make_corpus

NEW, FEWEST, SHARE, CALL = 30, 15, 0.15, 200  # new labels; their fewest documents; of the other documents; per call
SETTINGS = {"train.threads": 1, "train.baselines": "off"}


def main() -> None:
    """Fit, update and print."""
    corpus, rng = make_corpus(6_000, seed=1), np.random.default_rng(0)
    counts = corpus.train["labels"].explode().value_counts(sort=True)
    new = set(rng.choice(counts.filter(pl.col("count") >= FEWEST)["labels"].to_list(), NEW, replace=False).tolist())
    is_new = pl.element().is_in(list(new))
    has_new = corpus.train["labels"].list.eval(is_new).list.any()
    second = has_new | pl.Series(rng.random(len(corpus.train)) < SHARE)
    later = corpus.train.filter(second)
    only_new = corpus.train.filter(has_new).with_columns(pl.col("labels").list.eval(pl.element().filter(is_new)))

    def report(title: str, classifier: MultiLabelClassifier) -> None:
        scores = classifier.evaluate(corpus.test)
        rows = {row["label"]: row["average_precision"] for row in scores["labels"]}
        parts = ([rows[name] for name in rows if (name in new) == wanted] for wanted in (False, True))
        earlier, added = (float(np.nanmean(part)) if part else float("nan") for part in parts)
        f1 = (scores["values"][f"tuned.{name}_f1"] for name in ("micro", "macro"))
        print(f"{title:32}{earlier:9.4f}{added:9.4f}", *(f"{value:9.4f}" for value in f1))

    print(f"{'':32}{'earlier':>9}{'new':>9}{'micro F1':>10}{'macro F1':>10}")
    fitted = MultiLabelClassifier(features="ngrams", settings=SETTINGS).fit(corpus.train.filter(~second))
    report("fit", fitted)
    report("update", copy(fitted).update(later))
    report("update, only new labels given", copy(fitted).update(only_new))
    called = copy(fitted)
    for start in range(0, len(later), CALL):
        called.partial_fit(later[start : start + CALL])
    report(f"partial_fit, {CALL} a call", called)
    report("fit on all", MultiLabelClassifier(features="ngrams", settings=SETTINGS).fit(corpus.train))


if __name__ == "__main__":
    main()
