"""Decisions against written-out arithmetic, scikit-learn and the protocol's script."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import precision_recall_fscore_support

from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.average_precision import average_precision
from hyperfocal.metrics.decisions import count_decisions, decision_scores, f1, label_table
from hyperfocal.metrics.label_ranking import ndcg_at_k, precision_at_k

PROTOCOL = Path(__file__).parents[2].parent / "shared/protocols/score_labels.py"
NAMES = ("precision", "recall", "f1")
quick = settings(deadline=None, max_examples=100)


def labels(lists: list[list[int]], num_labels: int = 4) -> SparseLabels:
    return SparseLabels.from_lists(lists, num_labels=num_labels)


def draw(rows: int, num_labels: int, share: float, seed: int) -> SparseLabels:
    dense = torch.rand(rows, num_labels, generator=torch.Generator().manual_seed(seed)) < share
    return SparseLabels.from_scipy(csr_matrix(dense.numpy()))


def oracle(decided: SparseLabels, truth: SparseLabels, average: str | None) -> dict[str, object]:
    """Return scikit-learn's precision, recall and F1. Sparse input: TRAPS 21."""
    ours, theirs = (csr_matrix(part.to_dense(torch.int64).numpy()) for part in (decided, truth))
    values = precision_recall_fscore_support(theirs, ours, average=average, zero_division=0)
    return dict(zip(NAMES, values[:3], strict=True))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[SparseLabels, SparseLabels]:
    """Return decided and true labels of 1 to 6 documents over 2 to 5 labels."""
    num_labels, rows = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    row = st.lists(st.integers(0, num_labels - 1), max_size=4)
    lists = st.lists(row, min_size=rows, max_size=rows)
    return labels(draw(lists), num_labels), labels(draw(lists), num_labels)


DECIDED = [[0, 1], [0], [2], []]
TRUTH = [[0], [0, 1], [], []]  # label 2 is decided and never true, label 3 neither
COUNTS = torch.tensor([200, 20, 300, 19])  # head, medium, head, tail


class TestCountDecisions:
    def test_by_hand(self):
        tp, fp, fn = count_decisions(labels(DECIDED), labels(TRUTH))
        assert tp.tolist() == [2, 0, 0, 0]
        assert fp.tolist() == [0, 1, 1, 0]
        assert fn.tolist() == [0, 1, 0, 0]

    @quick
    @given(pairs())
    def test_against_dense_arithmetic(self, case):
        decided, truth = (part.to_dense(torch.int64) for part in case)
        tp, fp, fn = count_decisions(*case)
        assert tp.tolist() == (decided * truth).sum(0).tolist()
        assert fp.tolist() == (decided * (1 - truth)).sum(0).tolist()
        assert fn.tolist() == ((1 - decided) * truth).sum(0).tolist()

    @pytest.mark.parametrize("decided", [labels([[0]] * 3), labels([[0]] * 4, 5)])
    def test_shapes_that_differ(self, decided):
        with pytest.raises(DataError, match=r"but the truth has \(4, 4\)"):
            count_decisions(decided, labels(TRUTH))


class TestDecisionScores:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("micro_precision", 2 / 4),
            ("micro_recall", 2 / 3),
            ("micro_f1", 2 * 2 / (4 + 3)),
            ("macro_precision", (1 + 0) / 2),  # labels 2 and 3 have no true document
            ("macro_recall", (1 + 0) / 2),
            ("macro_f1", (1 + 0) / 2),
            ("document_precision", (1 / 2 + 1 + 0 + 0) / 4),  # the last has neither: 0
            ("document_recall", (1 + 1 / 2 + 0 + 0) / 4),
            ("document_f1", (2 / 3 + 2 / 3 + 0 + 0) / 4),
            ("head_f1", 1),  # of label 0; label 2 is left out
            ("medium_f1", 0),
            ("tail_f1", math.nan),
            ("labels_per_document", 4 / 4),
            ("labels_without_truth", 2),
        ],
    )
    def test_by_hand(self, name, expected):
        value = decision_scores(labels(DECIDED), labels(TRUTH), COUNTS)[name]
        assert isinstance(value, float)
        assert value == pytest.approx(expected, abs=1e-15, nan_ok=True)

    @quick
    @given(pairs())
    def test_against_scikit_learn(self, case):
        self.check(*case)

    @pytest.mark.parametrize("share", [0.001, 0.02, 0.5])
    def test_300_labels_against_scikit_learn(self, share):
        self.check(draw(50, 300, share, 0), draw(50, 300, share, 1))

    @staticmethod
    def check(decided, truth):
        scores = decision_scores(decided, truth, torch.arange(truth.num_labels) * 30)
        micro, documents, single = (oracle(decided, truth, average) for average in ("micro", "samples", None))
        some = (truth.counts() > 0).numpy()
        for name in NAMES:
            assert scores[f"micro_{name}"] == pytest.approx(micro[name], abs=1e-12)
            assert scores[f"document_{name}"] == pytest.approx(documents[name], abs=1e-12)
            if some.any():
                assert scores[f"macro_{name}"] == pytest.approx(single[name][some].mean(), abs=1e-12)
            else:
                assert math.isnan(scores[f"macro_{name}"])

    @pytest.mark.parametrize(("rows", "num_labels"), [(0, 3), (2, 0), (0, 0)])
    def test_nothing(self, rows, num_labels):
        empty = labels([[]] * rows, num_labels)
        scores = decision_scores(empty, empty, torch.zeros(num_labels))
        assert scores["micro_f1"] == 0
        assert math.isnan(scores["macro_f1"])
        assert scores["labels_per_document"] == 0
        assert scores["labels_without_truth"] == num_labels

    def test_counts_of_another_shape(self):
        with pytest.raises(DataError, match=r"counts: expected \(4,\), one for each label, got \(3,\)"):
            decision_scores(labels(DECIDED), labels(TRUTH), COUNTS[:3])


class TestLabelTable:
    def test_by_hand(self):
        scores = torch.tensor([[9.0, 5, 0, 0], [8, 4, 0, 0], [7, 6, 0, 0], [1, 2, 3, 4]])
        table = label_table(scores, labels(DECIDED), labels(TRUTH), COUNTS)
        nan = math.nan
        expected = {
            "train_documents": [200, 20, 300, 19],
            "true_documents": [2, 1, 0, 0],
            "decided_documents": [2, 1, 1, 0],
            "precision": [1, 0, nan, nan],
            "recall": [1, 0, nan, nan],
            "f1": [1, 0, nan, nan],
            "average_precision": [1, 1 / 3, nan, nan],
        }
        for name, column in table.items():
            assert column.tolist() == pytest.approx(expected[name], nan_ok=True)
        assert list(table) == list(expected)

    @pytest.mark.parametrize("seed", range(2))
    def test_the_mean_of_a_column_is_the_macro_mean(self, seed):
        decided, truth = draw(30, 250, 0.02, seed), draw(30, 250, 0.02, seed + 10)
        scores = torch.randn(30, 250, generator=torch.Generator().manual_seed(seed))
        counts = torch.arange(250)
        table, summary = label_table(scores, decided, truth, counts), decision_scores(decided, truth, counts)
        for name in NAMES:
            assert table[name].nanmean().item() == pytest.approx(summary[f"macro_{name}"])
        assert torch.equal(table["average_precision"].nan_to_num(), average_precision(scores, truth).nan_to_num())
        assert int(table["f1"].isnan().sum()) == summary["labels_without_truth"] > 0


def test_f1_of_nothing_is_0():
    zero = torch.zeros(1)
    assert f1(zero, zero, zero).tolist() == [0]
    assert f1(torch.tensor([1]), torch.tensor([2]), torch.tensor([3])).tolist() == [2 * 1 / (2 + 3)]


@pytest.mark.skipif(not PROTOCOL.is_file(), reason=f"{PROTOCOL} is not there")
class TestProtocol:
    """The script by which published numbers are scored, on files."""

    @pytest.mark.parametrize(("num_labels", "seed"), [(3, 0), (40, 1), (250, 2)])  # 3: fewer labels than ranks
    def test_the_script_says_the_same(self, tmp_path, num_labels, seed):
        counts = torch.tensor([1, 19, 20, 199, 200, 230])[torch.arange(num_labels) % 6]
        decided, truth = draw(60, num_labels, 0.05, seed), draw(60, num_labels, 0.05, seed + 10)
        levels = torch.randint(-9, 9, (60, num_labels), generator=torch.Generator().manual_seed(seed))
        scores = levels / 4  # with ties
        self.write(tmp_path, counts, decided, truth, scores)
        theirs, ours = self.run(tmp_path), decision_scores(decided, truth, counts)
        assert (theirs["documents"], theirs["labels"], theirs["unseen"]) == (60, num_labels, 60)
        for name in ("micro_f1", "macro_f1", "head", "medium", "tail"):
            value = ours[name if name in ours else f"{name}_f1"]
            assert theirs[name] == (None if math.isnan(value) else pytest.approx(value, abs=6e-6))  # 5 digits
        assert theirs["labels_per_document"] == pytest.approx(ours["labels_per_document"], abs=6e-4)
        for k in (1, 3, 5):
            value = precision_at_k(scores, truth, k).nanmean().item()
            assert theirs[f"P@{k}"] == pytest.approx(value, abs=6e-6)
        assert theirs["nDCG@5"] == pytest.approx(ndcg_at_k(scores, truth, 5).nanmean().item(), abs=6e-6)

    @staticmethod
    def write(folder, counts, decided, truth, scores):
        """Write the script's three files; each true document also has a label that training never shows."""
        names = [f"l{label:03d}" for label in range(len(counts))]
        train = [{"id": n, "labels": [names[i] for i in range(len(names)) if counts[i] > n]} for n in range(230)]
        rows = range(len(truth))
        lists = {
            part: [[names[i] for i in labels.select(torch.tensor([row])).indices.tolist()] for row in rows]
            for part, labels in (("decided", decided), ("truth", truth))
        }
        wanted = [{"id": row, "labels": [*lists["truth"][row], "never seen"]} for row in rows]
        ranked = [dict(zip(names, row, strict=True)) for row in scores.tolist()]
        found = [{"id": row, "labels": lists["decided"][row], "scores": ranked[row]} for row in rows]
        for name, lines in (("train", train), ("truth", wanted), ("pred", found)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    @staticmethod
    def run(folder):
        files = [str(folder / f"{name}.jsonl") for name in ("train", "truth", "pred")]
        command = [sys.executable, str(PROTOCOL), *files]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
