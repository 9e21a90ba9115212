"""Rankings and their metrics against plain loops, scikit-learn and the protocol's script."""

import csv
import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics import ranking
from hyperfocal.metrics.ranking import (
    GROUPS,
    METRICS,
    NO_ITEM,
    coverage,
    find_hits,
    only,
    rank_items,
    score_ranking,
    top_k,
)
from hyperfocal.sequences import Sequences

PROTOCOL = Path(__file__).parents[2].parent / "shared/protocols/score_next.py"
NUM_ITEMS = 7
quick = settings(deadline=None, max_examples=100)
items = st.integers(NO_ITEM, NUM_ITEMS - 1)  # repeats and NO_ITEM anywhere
truths = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=5)  # repeats


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], int]:
    """Return U rankings of k items, U lists of true items, and k."""
    k = draw(st.integers(1, 5))
    users = draw(st.lists(st.tuples(st.lists(items, min_size=k, max_size=k), truths), max_size=6))
    return [ranked for ranked, _ in users], [true for _, true in users], k


def labels(lists: list[list[int]], num_labels: int = NUM_ITEMS) -> SparseLabels:
    return SparseLabels.from_lists(lists, num_labels=num_labels)


def build(lists: list[list[int]], num_items: int = NUM_ITEMS) -> Sequences:
    flat = torch.tensor([item for row in lists for item in row], dtype=torch.int64)
    return Sequences(flat, torch.tensor([0, *map(len, lists)]).cumsum(0), num_items)


def hits_of(ranked: list[int], true: list[int]) -> list[bool]:
    """Return which ranks hold a true item for the first time."""
    return [item in true and item not in ranked[:rank] for rank, item in enumerate(ranked)]


def oracle(kind: str, ranked: list[int], true: list[int], k: int) -> float:
    """Return one user's value: the formulas of the module's docstring, written out."""
    hits, wanted = hits_of(ranked[:k], true), len(set(true))
    ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
    if kind == "map":
        return sum(sum(hits[:rank]) / rank for rank in ranks) / min(k, wanted)
    if kind == "recall":
        return len(ranks) / wanted
    if kind == "hit":
        return float(bool(ranks))
    if kind == "mrr":
        return 1 / ranks[0] if ranks else 0.0
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, wanted) + 1))
    return sum(1 / math.log2(rank + 1) for rank in ranks) / ideal


class TestMetrics:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("map@1", 1 / 1),
            ("map@3", (1 / 1 + 2 / 3) / 3),  # 3 true items
            ("map@5", (1 / 1 + 2 / 3) / 3),
            ("map@2", (1 / 1) / 2),  # of 3 true items, 2 fit in
            ("recall@3", 2 / 3),
            ("ndcg@3", (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2)),
            ("hit@3", 1),
            ("mrr@3", 1 / 1),
        ],
    )
    def test_by_hand(self, name, expected):
        value = score_ranking(torch.tensor([[4, 1, 6, 0, 2]]), labels([[4, 5, 6]]), [name])[name]
        assert value.tolist() == [pytest.approx(expected, abs=1e-15)]
        assert value.dtype == torch.float64

    def test_a_first_hit_at_rank_2(self):
        scores = score_ranking(torch.tensor([[1, 4, 6]]), labels([[4]]), ["map@3", "mrr@3", "ndcg@3", "hit@1"])
        assert [value.item() for value in scores.values()] == [1 / 2, 1 / 2, pytest.approx(1 / math.log2(3)), 0]

    @quick
    @given(cases())
    def test_against_the_formulas(self, case):
        ranked, true, k = case
        names = [f"{kind}@{depth}" for kind in METRICS for depth in range(1, k + 1)]
        scores = score_ranking(torch.tensor(ranked, dtype=torch.int64).reshape(-1, k), labels(true), names)
        for name in names:
            kind, depth = name.split("@")
            expected = [oracle(kind, row, want, int(depth)) for row, want in zip(ranked, true, strict=True) if want]
            assert scores[name].tolist() == pytest.approx(expected, abs=1e-12)

    @quick
    @given(cases())
    def test_hits(self, case):
        ranked, true, k = case
        hits = find_hits(torch.tensor(ranked, dtype=torch.int64).reshape(-1, k), labels(true))
        assert hits.tolist() == [hits_of(row, want) for row, want in zip(ranked, true, strict=True)]

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("k", [1, 3, 10, 25])
    def test_ndcg_equals_scikit_learn(self, seed, k):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(50, 25, generator=generator)
        dense = torch.rand(50, 25, generator=generator) < 0.2
        dense[:, 3] = True  # scikit-learn scores a user without a true item 0; we leave him out
        ranked, _ = rank_items(lambda _: scores, build([[]] * 50, 25), k)
        ours = score_ranking(ranked, labels([row.nonzero().flatten().tolist() for row in dense], 25), [f"ndcg@{k}"])
        theirs = [
            ndcg_score(want[None], row[None], k=k) for want, row in zip(dense.numpy(), scores.numpy(), strict=True)
        ]
        np.testing.assert_allclose(ours[f"ndcg@{k}"], theirs, atol=1e-12)

    def test_a_repeated_prediction_counts_once(self):
        scores = score_ranking(torch.tensor([[4, 4, 4]]), labels([[4, 5]]), ["map@3", "recall@3"])
        assert [value.item() for value in scores.values()] == [1 / 2, 1 / 2]

    def test_a_repeated_target_is_one_target(self):
        scores = score_ranking(torch.tensor([[4, 1, 2]]), labels([[4, 4, 4]]), ["map@3", "recall@3"])
        assert [value.item() for value in scores.values()] == [1, 1]

    def test_no_item_is_never_a_hit(self):
        ranked = torch.tensor([[NO_ITEM, 0], [NO_ITEM, 1]])
        assert not find_hits(ranked, labels([[NUM_ITEMS - 1], [0]])).any()  # as keys -1 of user 1 is the last of user 0

    def test_an_item_that_training_never_saw_counts_as_missed(self):
        assert score_ranking(torch.tensor([[4, 6]]), labels([[4, 9]], 10), ["recall@2"])["recall@2"].item() == 1 / 2

    def test_a_user_without_a_true_item_is_left_out(self):
        scores = score_ranking(torch.tensor([[4], [4], [1]]), labels([[], [4], [4]]), ["hit@1"])
        assert scores["hit@1"].tolist() == [1, 0]

    @pytest.mark.parametrize("name", ["map@4", "map@0", "map@", "map", "map@-1", "map@x", "map@1.5", "f1@3", "@3", ""])
    def test_an_unknown_metric(self, name):
        with pytest.raises(ConfigError, match=r"Expected one of map, recall, ndcg, hit, mrr, then '@' and 1 to 3"):
            score_ranking(torch.tensor([[4, 1, 2]]), labels([[4]]), [name])


@pytest.mark.skipif(not PROTOCOL.is_file(), reason=f"{PROTOCOL} is not there")
class TestProtocol:
    """The script by which published numbers are scored, on files."""

    @pytest.mark.parametrize("k", [1, 3, 5])
    @pytest.mark.parametrize("seed", range(2))
    def test_the_script_says_the_same(self, tmp_path, k, seed):
        generator = torch.Generator().manual_seed(seed)
        ranked = torch.randint(0, 12, (60, 5), generator=generator)  # with repeats
        true = [torch.randint(0, 12, (1 + user % 6,), generator=generator).tolist() for user in range(60)]
        predictions = [
            (f"u,{user}", item, rank) for user, row in enumerate(ranked.tolist()) for rank, item in enumerate(row, 1)
        ]
        self.write(tmp_path / "pred.csv", "user,item,rank", predictions)
        self.write(
            tmp_path / "truth.csv",
            "user,item,n",
            [(f"u,{u}", i, n) for u, row in enumerate(true) for n, i in enumerate(row)],
        )
        ours = score_ranking(ranked, labels(true, 12), [f"{kind}@{k}" for kind in METRICS])
        theirs = self.run(tmp_path, k)
        assert theirs["users"] == 60
        for kind in ("map", "recall", "hit", "ndcg"):
            assert theirs[f"{kind}@{k}"] == pytest.approx(ours[f"{kind}@{k}"].mean().item(), abs=6e-6)  # 5 digits

    def test_the_script_says_the_same_of_a_submission(self, tmp_path):
        ranked, true = torch.tensor([[4, 1, 6], [0, 2, 3]]), [[6, 4, 5], [2, 2, 1]]
        for name, lists in (("pred", ranked.tolist()), ("truth", true)):
            rows = [(f"{user}_{11 + n}", item) for user, row in enumerate(lists) for n, item in enumerate(row)]
            self.write(tmp_path / f"{name}.csv", "user_sequence,challenge", rows)
        expected = ((1 / 1 + 2 / 3) / 3 + (1 / 2) / 2) / 2
        assert score_ranking(ranked, labels(true), ["map@3"])["map@3"].mean().item() == pytest.approx(expected)
        assert self.run(tmp_path, 3)["map@3"] == pytest.approx(expected, abs=6e-6)

    @staticmethod
    def write(path, header, rows):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header.split(","), *rows])

    @staticmethod
    def run(folder, k):
        command = [sys.executable, str(PROTOCOL), str(folder / "truth.csv"), str(folder / "pred.csv"), "--k", str(k)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


class TestTopK:
    @pytest.mark.parametrize("k", [1, 2, 3, 10])
    @pytest.mark.parametrize("rows", [0, 1, 3])
    @pytest.mark.parametrize("width", [10, 64 * GROUPS - 1, 64 * GROUPS, 64 * GROUPS + 15, 3000, 64 * GROUPS * 10 + 3])
    @pytest.mark.parametrize("levels", [3, 50, 10**6])
    def test_the_values_of_torch(self, k, rows, width, levels):
        generator = torch.Generator().manual_seed(width)
        scores = torch.randint(-levels, levels, (rows, width), generator=generator).float()  # few levels: many ties
        best, columns = top_k(scores, k)
        assert torch.equal(best, scores.topk(k).values)
        assert torch.equal(scores.gather(1, columns), best)
        assert all(len(set(row)) == k for row in columns.tolist())

    @pytest.mark.parametrize("place", [0, 15, 16, 1023, 1024, 2047, 2048, 2055])
    def test_the_best_is_found_at_any_place(self, place):
        scores = torch.zeros(1, 2056)
        scores[0, place] = 1
        assert top_k(scores, 1)[1].item() == place

    def test_the_best_of_one_group(self):
        scores = torch.zeros(1, 3200)
        scores[0, 7::200] = torch.arange(1.0, 17)  # columns 7, 207, ... share a maximum
        assert top_k(scores, 3)[1].tolist() == [[7 + 200 * 15, 7 + 200 * 14, 7 + 200 * 13]]

    @pytest.mark.parametrize("k", [1, 2])
    def test_minus_infinity(self, k):
        scores = torch.full((1, 4096), -torch.inf)
        scores[0, 4000] = -1e30
        best, columns = top_k(scores, k)
        assert (best[0, 0].item(), columns[0, 0].item()) == (pytest.approx(-1e30), 4000)
        assert best[0, 1:].tolist() == [-torch.inf] * (k - 1)

    def test_negative_scores_rank_like_any_other(self):
        scores = -5 - torch.arange(2048.0)[None]  # a head whose bias starts at the prior scores below 0 everywhere
        assert top_k(scores, 2)[1].tolist() == [[0, 1]]


class TestRankItems:
    @quick
    @given(st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), max_size=6), st.integers(1, 7), st.booleans())
    def test_against_sorting(self, histories, k, repeats):
        generator = torch.Generator().manual_seed(len(histories))
        table = torch.randn(len(histories), NUM_ITEMS, generator=generator) - 5
        ranked, best = rank_items(lambda _: table, build(histories), k, repeats=repeats)
        assert (ranked.shape, ranked.dtype, best.dtype) == ((len(histories), k), torch.int64, torch.float32)
        for user, history in enumerate(histories):
            left = [item for item in range(NUM_ITEMS) if repeats or item not in history]
            left = sorted(left, key=lambda item: -table[user, item])[:k]
            assert ranked[user].tolist() == left + [NO_ITEM] * (k - len(left))
            assert best[user].tolist() == table[user, left].tolist() + [-math.inf] * (k - len(left))

    def test_scores_below_zero_are_ranked(self):
        """TRAPS 13: another library drops targets whose score is not above 0."""
        scores = torch.full((1, NUM_ITEMS), -4.6)
        scores[0, 5] = -4.5
        ranked, _ = rank_items(lambda _: scores, build([[0]]), 1)
        assert ranked.item() == 5
        assert score_ranking(ranked, labels([[5]]), ["map@1"])["map@1"].item() == 1

    def test_a_score_of_minus_infinity_is_never_recommended(self):
        scores = torch.tensor([[-math.inf, 0.0, -math.inf]])
        assert rank_items(lambda _: scores, build([[]], 3), 3)[0].tolist() == [[1, NO_ITEM, NO_ITEM]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_any_float(self, dtype):
        scores = torch.tensor([[1, 3, 2]], dtype=dtype)
        ranked, best = rank_items(lambda _: scores, build([[]], 3), 2)
        assert (ranked.tolist(), best.tolist(), best.dtype) == ([[1, 2]], [[3, 2]], torch.float32)

    def test_doubles_are_ranked_as_doubles(self):
        scores = torch.tensor([[1, 1 + 1e-12, 1 - 1e-12]], dtype=torch.float64)
        assert rank_items(lambda _: scores, build([[]], 3), 3)[0].tolist() == [[1, 0, 2]]

    def test_blocks_join_to_the_whole(self, monkeypatch):
        table = torch.randn(100, NUM_ITEMS, generator=torch.Generator().manual_seed(0))
        histories = build([[user % NUM_ITEMS] * (user % 3) + [user % 2] for user in range(100)])
        sizes = []

        def score(block: Sequences) -> torch.Tensor:
            start = sum(sizes)
            sizes.append(len(block))
            return table[start : start + len(block)]

        whole = rank_items(lambda _: table, histories, 3)
        monkeypatch.setattr(ranking, "BLOCK_NUMBERS", NUM_ITEMS * 30)
        parts = rank_items(score, histories, 3)
        assert sizes == [30, 30, 30, 10]
        assert torch.equal(whole[0], parts[0])
        assert torch.equal(whole[1], parts[1])

    def test_a_block_holds_16_users_however_many_the_items(self, monkeypatch):
        monkeypatch.setattr(ranking, "BLOCK_NUMBERS", 1)
        sizes = []
        rank_items(lambda block: sizes.append(len(block)) or torch.zeros(len(block), NUM_ITEMS), build([[]] * 40), 1)
        assert sizes == [16, 16, 8]

    @pytest.mark.parametrize("k", [0, -1, NUM_ITEMS + 1, 10**9])
    def test_k_outside_the_catalogue(self, k):
        with pytest.raises(ConfigError, match=f"k = {k} is not allowed. Expected 1 to 7, the number of items"):
            rank_items(lambda _: pytest.fail("scored"), build([[1]]), k)

    @pytest.mark.parametrize("k", [True, np.True_, 2.0, np.float64(2), "2", [2], np.array([2]), pd.NA, None])
    def test_k_that_is_no_integer(self, k):
        with pytest.raises(ConfigError, match=r"k = .* is not allowed\. Expected 1 to 7, the number of items"):
            rank_items(lambda _: pytest.fail("scored"), build([[1]]), k)

    @pytest.mark.parametrize("k", [np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)])
    def test_k_of_another_library(self, k):
        """Of scores 0, ..., 6 and a history of item 6, items 5 and 4 are best."""
        items, _ = rank_items(lambda block: torch.arange(7.0).repeat(len(block), 1), build([[6]]), k)
        assert items.tolist() == [[5, 4]]


class TestCoverageAndOnly:
    def test_coverage(self):
        ranked = torch.tensor([[4, 1], [1, NO_ITEM], [NO_ITEM, NO_ITEM]])
        assert coverage(ranked, 8) == 2 / 8
        assert coverage(ranked[:0], 8) == 0
        assert coverage(ranked[:0], 0) == 0

    @quick
    @given(st.lists(truths, max_size=6), st.lists(st.booleans(), min_size=NUM_ITEMS, max_size=NUM_ITEMS))
    def test_only(self, true, mask):
        kept = only(labels(true), torch.tensor(mask))
        found = [kept.indices[start:end].tolist() for start, end in pairwise(kept.indptr.tolist())]
        assert found == [sorted({item for item in row if mask[item]}) for row in true]
        assert kept.num_labels == NUM_ITEMS
