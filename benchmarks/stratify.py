"""Measure sizes and label shares of stratified splits, on real documents and on made-up long tails.

    python benchmarks/stratify.py [--data FOLDER] [--seeds 3]

Each line is a mean over the seeds. `size` is the largest error of a part's size, in percent of the size it should have.
`share` is 100 times the mean over labels and parts of |documents of the label in the part / documents of the label -
share of the part|. `odds` is the label distribution (LD) of Sechidis et al. 2011, times 1000. `absent` counts the pairs
of a label and a part without a document of it. Methods: hyperfocal; `plain`, the paper's Algorithm 1 without groups;
`peer`, the package iterative-stratification if it is installed; and `random`, which divides the permuted groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.documents import as_documents
from hyperfocal.data.extreme import read_extreme
from hyperfocal.data.stratify import number_labels, stratified_folds
from hyperfocal.labels import SparseLabels

Ints = NDArray[np.int64]
SPLITS = {"10%": [0.9, 0.1], "20%": [0.8, 0.2], "50%": [0.5, 0.5], "5 folds": [0.2] * 5, "10 folds": [0.1] * 10}


class Case(NamedTuple):
    """Labels of N documents, and (N,) groups or None."""

    labels: SparseLabels
    groups: Ints | None = None


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3, help="splits per line  [3]")
    options = parser.parse_args()
    print("| data | split | method | size | share | odds | absent |\n|---|---|---|---|---|---|---|", flush=True)
    for name, case in [*real_cases(options.data), *made_up_cases()]:
        for split, shares in SPLITS.items():
            for method, divide in METHODS.items():
                if case.groups is not None and method in ("plain", "peer"):
                    continue
                rows = [measures(case, divide(case, shares, seed), shares) for seed in range(options.seeds)]
                size, share, odds, absent = np.mean(rows, 0)
                print(
                    f"| {name} | {split} | {method} | {size:.2f} | {share:.2f} | {odds:.3f} | {absent:.0f} |",
                    flush=True,
                )


def real_cases(folder: Path) -> Iterator[tuple[str, Case]]:
    """Yield the data sets that are there."""
    for name in ("debtags", "cooking", "reuters"):
        path = folder / name / "train.jsonl.gz"
        if path.is_file():
            text, group = ("text", "group") if name == "debtags" else ("body", "")
            documents = as_documents(path, TextDataSettings(text=(text,), group=group))
            labels = number_labels(documents.labels)
            yield name, Case(labels)
            if group:
                yield "debtags, groups", Case(labels, documents.group_numbers())
    for name in ("bibtex", "delicious"):
        if (path := folder / name / "train.txt.gz").is_file():
            yield name, Case(read_extreme(path).labels)


def made_up_cases() -> Iterator[tuple[str, Case]]:
    """Yield a long tail, a longer one with groups, and a few large groups."""
    yield "tail", Case(zipf(5_000, 1_000))
    sizes = np.random.default_rng(1).zipf(1.6, 4_000).clip(max=60)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    yield "tail, groups", Case(zipf(len(groups), 1_000), groups)
    alike = zipf(len(sizes), 1_000)  # documents of a group have the same labels
    yield "tail, alike groups", Case(alike.select(torch.from_numpy(groups)), groups)
    yield "tail, 40 groups", Case(zipf(2_000, 50), np.sort(np.random.default_rng(2).integers(0, 40, 2_000)))


def zipf(documents: int, labels: int, each: int = 3) -> SparseLabels:
    """Return labels that are drawn by Zipf's law."""
    chances = 1 / np.arange(1, labels + 1)
    drawn = np.random.default_rng(0).choice(labels, size=documents * each, p=chances / chances.sum())
    return SparseLabels.from_csr(torch.arange(0, len(drawn) + 1, each), torch.from_numpy(drawn), num_labels=labels)


def measures(case: Case, folds: Ints, shares: Sequence[float]) -> tuple[float, ...]:
    """Return the four measures."""
    parts, total = np.asarray(shares), case.labels.counts().numpy()
    rows, columns = folds[case.labels.rows.numpy()], case.labels.indices.numpy()
    counts = np.zeros((len(parts), len(total)))
    np.add.at(counts, (rows, columns), 1)
    counts, total = counts[:, total > 0], total[total > 0]
    sizes = np.bincount(folds, minlength=len(parts))
    wanted = parts * len(folds)
    odds = counts / np.maximum(sizes[:, None] - counts, 1) - total / np.maximum(len(folds) - total, 1)
    share = counts / total - parts[:, None]
    return (
        100 * float(np.abs(sizes / wanted - 1).max()),
        100 * float(np.abs(share).mean()),
        1000 * float(np.abs(odds).mean()),
        float((counts == 0).sum()),
    )


def ours(case: Case, shares: Sequence[float], seed: int) -> Ints:
    """Return the folds of hyperfocal; the first of two trains."""
    return stratified_folds(case.labels, case.groups, shares, seed=seed, first_trains=len(shares) == 2)


def plain(case: Case, shares: Sequence[float], seed: int) -> Ints:
    """Return the folds of Algorithm 1, document by document."""
    rng, labels = np.random.default_rng(seed), case.labels
    rows = [row.numpy() for row in labels.indices.split(labels.lengths.tolist())]
    folds = np.full(len(labels), -1)
    want = np.outer(shares, labels.counts().numpy()).astype(float)
    room = np.asarray(shares) * len(labels)
    left, owners = labels.counts().numpy().copy(), labels.rows.numpy()
    by_label = [owners[labels.indices.numpy() == label] for label in range(labels.num_labels)]
    while (left > 0).any():
        label = int(np.where(left > 0, left, len(labels) + 1).argmin())
        for row in by_label[label][folds[by_label[label]] < 0]:
            best = np.lexsort((rng.random(len(room)), room, want[:, label]))[-1]
            folds[row], left[rows[row]] = best, left[rows[row]] - 1
            want[best, rows[row]] -= 1
            room[best] -= 1
    for row in np.flatnonzero(folds < 0):
        folds[row] = room.argmax()
        room[folds[row]] -= 1
    return folds


def peer(case: Case, shares: Sequence[float], seed: int) -> Ints:
    """Return the folds of iterative-stratification."""
    from iterstrat.ml_stratifiers import IterativeStratification

    assigned = IterativeStratification(
        labels=case.labels.to_dense().numpy().astype(bool),
        r=np.asarray(shares),
        random_state=np.random.RandomState(seed),
    )
    return np.asarray(assigned)


def random(case: Case, shares: Sequence[float], seed: int) -> Ints:
    """Return folds of permuted documents or groups."""
    units = np.arange(len(case.labels)) if case.groups is None else case.groups
    order = np.random.default_rng(seed).permutation(units.max() + 1)
    ends = np.bincount(units)[order].cumsum()
    of_unit = np.empty(len(order), dtype=np.int64)
    of_unit[order] = np.searchsorted(np.cumsum(shares)[:-1] * len(units), ends, side="left")
    return of_unit[units]


METHODS: dict[str, Callable[[Case, Sequence[float], int], Ints]] = {"hyperfocal": ours, "plain": plain}
METHODS |= {"peer": peer} if find_spec("iterstrat") else {}
METHODS |= {"random": random}

if __name__ == "__main__":
    main()
