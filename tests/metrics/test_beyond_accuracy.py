"""Novelty, diversity, serendipity and exposure against their formulas, written out with loops as RecTools has them."""

import itertools
import math

import numpy as np
import pytest
import torch

from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.beyond_accuracy import diversity, gini, novelty, serendipity, share_of_new
from hyperfocal.metrics.ranking import NO_ITEM

USERS, ITEMS, K = 30, 12, 5
DRAW = np.random.default_rng(0)
RANKED = torch.from_numpy(np.stack([DRAW.permutation(ITEMS)[:K] for _ in range(USERS)]))
RANKED[3, 2:] = NO_ITEM
RANKED[4] = NO_ITEM
RANKED[5, 1:] = NO_ITEM
COUNTS = torch.from_numpy(DRAW.integers(0, 50, ITEMS))
COUNTS[7] = 0
VECTORS = torch.nn.functional.normalize(torch.from_numpy(DRAW.normal(size=(ITEMS, 4))))
TRUTH = [[] if user == 9 else sorted(DRAW.permutation(ITEMS)[:3].tolist()) for user in range(USERS)]
LISTS = [[item for item in row if item != NO_ITEM] for row in RANKED.tolist()]


def test_novelty():
    total = int(COUNTS.sum())
    bits = [[math.log2(total / max(int(COUNTS[item]), 1)) for item in row] for row in LISTS]
    assert novelty(RANKED, COUNTS) == pytest.approx(np.mean([np.mean(row) for row in bits if row]))


def test_diversity():
    distances = [
        [1 - float(VECTORS[one] @ VECTORS[other]) for one, other in itertools.combinations(row, 2)] for row in LISTS
    ]
    assert diversity(RANKED, VECTORS) == pytest.approx(np.mean([np.mean(row) for row in distances if row]))
    assert math.isnan(diversity(RANKED[4:6], VECTORS))


def test_serendipity():
    order = sorted(range(ITEMS), key=lambda item: (-int(COUNTS[item]), item))
    values = []
    for row, true in zip(LISTS, TRUTH, strict=True):
        if not true:
            continue
        gains = [
            max((ITEMS + 1 - rank) / ITEMS - (ITEMS + 1 - (1 + order.index(item))) / ITEMS, 0) * (item in true)
            for rank, item in enumerate(row, 1)
        ]
        values.append(sum(gains) / K)
    assert np.mean(values) > 0
    truth = SparseLabels.from_lists(TRUTH, num_labels=ITEMS)
    assert serendipity(RANKED, truth, COUNTS) == pytest.approx(np.mean(values))


def test_gini():
    shown = np.bincount([item for row in LISTS for item in row], minlength=ITEMS)
    differences = np.abs(shown[:, None] - shown[None]).sum()
    assert gini(RANKED, ITEMS) == pytest.approx(differences / (2 * ITEMS * shown.sum()))
    assert math.isnan(gini(RANKED[4:5], ITEMS))


def test_share_of_new_items():
    shown = [item for row in LISTS for item in row]
    assert share_of_new(RANKED, ITEMS, 2) == pytest.approx(sum(item >= ITEMS - 2 for item in shown) / len(shown))
    assert share_of_new(RANKED, ITEMS, 0) == 0
