"""Labels that training never saw, scored by what their texts say: Python, command line and service."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix

from command_cases import done, refused
from hyperfocal import MultiLabelClassifier
from hyperfocal.classify.acceptance import Judged
from hyperfocal.classify.combination import Combination
from hyperfocal.classify.files import read_fit
from hyperfocal.classify.new_labels import fit_headless
from hyperfocal.classify.opinions import Shares
from hyperfocal.classify.scores import seen_and_new
from hyperfocal.classify.service import CATALOGUES, ClassifyPredictor, load_classify
from hyperfocal.config.classify import DecisionSettings
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.serve.messages import ClassifyRequest, NewLabel
from hyperfocal.storage.run_folder import RunFolder

FRUITS = ("apple", "banana", "cherry", "damson", "elder", "fig", "grape", "hazel")
NEW = ("kiwi", "lemon")
SETTINGS = {"features.kind": "ngrams", "train.epochs": 3, "train.threads": 1, "head.name": "linear"}


def documents(names, number, seed):
    """Return documents that name their labels, each also with a word of no label."""
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(number):
        labels = sorted(rng.choice(names, size=2, replace=False).tolist())
        filler = f"word{rng.integers(20)}"
        rows.append({"id": f"d{seed}-{place}", "text": f"{labels[0]}s {filler} and {labels[1]}", "labels": labels})
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run on eight fruits."""
    path = tmp_path_factory.mktemp("new") / "run"
    rows = documents(FRUITS, 200, 0)
    classifier = MultiLabelClassifier(settings=SETTINGS)
    classifier.fit([row["text"] for row in rows], [row["labels"] for row in rows], out=path)
    return path


@pytest.fixture(scope="module")
def fitted(run):
    """Return its classifier."""
    return MultiLabelClassifier.load(run)


@pytest.fixture(scope="module")
def asked(run):
    """Return a file of documents with new labels."""
    path = run.parent / "test.jsonl"
    rows = documents((*FRUITS, *NEW), 60, 1)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def table(run):
    """Return a table of the new labels."""
    path = run.parent / "new.csv"
    path.write_text("label,description\nkiwi,a green fruit\nlemon,\n")
    return path


def test_new_labels_come_last_and_the_others_do_not_change(fitted):
    wider, texts = fitted.with_new_labels(NEW), ["kiwis and figs", "a word7"]
    assert [str(name) for name in wider.classes_] == [*FRUITS, *NEW]
    np.testing.assert_array_equal(wider.decision_function(texts)[:, :8], fitted.decision_function(texts))
    assert fitted.decision_function(texts).shape == (2, 8)


def test_a_score_is_the_offset_and_the_weighted_share_of_the_name(fitted):
    headless = fitted.fit_.model.headless
    scores = fitted.with_new_labels(["kiwi bird"]).decision_function(["two kiwis\nand a bird", "a bird", "none"])[:, 8]
    weights = headless.weights  # both words are in one name each, so each is half of it
    half, whole = weights["text"] / 2 + weights["first_line"] / 2, weights["text"] + weights["first_line"] / 2
    expected = [headless.offset + whole, headless.offset + half, headless.offset]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def headless(scale, shift):
    """Return what is fitted to one opinion and a head whose logits are scaled and shifted."""
    generator = torch.Generator().manual_seed(0)
    shares = (torch.rand(400, 6, generator=generator) < 0.3).float()
    evidence = torch.randn(400, 6, generator=generator)
    probability = (evidence + 2 * shares - 2).sigmoid()
    truth = SparseLabels.from_dense(torch.rand(400, 6, generator=generator) < probability)
    opinions = {"text": Shares(csr_matrix(shares.numpy()))}
    judged = Judged(scale * (evidence - 1) + shift, opinions, truth, truth.counts(), "macro_ap", 0)
    return fit_headless(judged, Combination(), DecisionSettings())


def test_new_labels_are_on_the_scale_of_the_scores():
    """A head with logits 3 z + 5 has the probabilities of one with z, so new labels need 3 s + 5 as well."""
    plain, other = headless(1, 0), headless(3, 5)
    assert other.weights["text"] == pytest.approx(3 * plain.weights["text"], rel=0.05)
    assert other.offset == pytest.approx(3 * plain.offset + 5, abs=0.3)
    assert other.threshold == pytest.approx(3 * plain.threshold + 5, abs=0.5)


def test_a_named_new_label_is_decided(fitted):
    decided = fitted.with_new_labels(NEW).predict(["kiwis word3 and figs", "figs word4 and lemon", "figs word5"])
    assert [[label for label in row if label in NEW] for row in decided] == [["kiwi"], ["lemon"], []]


def test_a_boost_is_added(fitted):
    texts = ["kiwi", "fig"]
    plain = fitted.with_new_labels(NEW).decision_function(texts)
    np.testing.assert_allclose(fitted.with_new_labels(NEW, boost=2).decision_function(texts)[:, 8:], plain[:, 8:] + 2)


@pytest.mark.parametrize(
    "labels",
    [list(NEW), pl.DataFrame({"label": NEW, "name": NEW}), pl.DataFrame({"label": NEW, "description": ["", "sour"]})],
    ids=["names", "frame", "descriptions"],
)
def test_every_form_gives_the_same(fitted, labels):
    texts = ["kiwi", "two lemons"]
    expected = fitted.with_new_labels(NEW).decision_function(texts)
    np.testing.assert_array_equal(fitted.with_new_labels(labels).decision_function(texts), expected)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([], "none is given"),
        (["fig"], "'fig' is a label of training"),
        (["12-3"], "the text of '12-3' has no letter"),
        (["kiwi", "kiwi"], "'kiwi' is there twice"),
        ("kiwi.csv", "kiwi.csv"),
        (5, "is not a list of names"),
        (pl.DataFrame({"name": ["kiwi"]}), "Expected `label`"),
        (pl.DataFrame({"label": ["kiwi", "kiwi"], "name": ["a", "b"]}), "already in the file"),
    ],
)
def test_bad_labels_are_refused(fitted, labels, problem):
    with pytest.raises(DataError, match=problem):
        fitted.with_new_labels(labels)


def test_a_boost_that_is_no_number_is_refused(fitted):
    with pytest.raises(ConfigError, match="Expected a finite number"):
        fitted.with_new_labels(NEW, boost=float("nan"))


def test_a_run_without_label_texts_refuses():
    rows = documents(FRUITS, 60, 2)
    texts, labels = [row["text"] for row in rows], [row["labels"] for row in rows]
    matrix = np.asarray([[name in row for name in FRUITS] for row in labels], dtype=np.int64)
    for options, target, problem in (
        ({"label_texts": "off"}, labels, "fitted without label texts"),
        ({}, matrix, "the labels are columns of a matrix"),
    ):
        classifier = MultiLabelClassifier(settings=SETTINGS, **options).fit(texts, target)
        with pytest.raises(ConfigError, match=problem):
            classifier.with_new_labels(NEW)


def test_new_labels_are_given_once(fitted):
    with pytest.raises(ConfigError, match="has some already"):
        fitted.with_new_labels(["kiwi"]).with_new_labels(["lemon"])


def test_new_labels_need_not_be_in_the_tree(tmp_path):
    tree = tmp_path / "tree.tsv"
    tree.write_text("id\tparent\tname\n" + "".join(f"{name}\t\t{name}\n" for name in FRUITS))
    rows = documents(FRUITS, 100, 0)
    classifier = MultiLabelClassifier(settings=SETTINGS | {"data.taxonomy": str(tree)})
    classifier.fit([row["text"] for row in rows], [row["labels"] for row in rows])
    rows = documents((*FRUITS, *NEW), 60, 1)
    metrics = classifier.with_new_labels(NEW).evaluate(([row["text"] for row in rows], [row["labels"] for row in rows]))
    assert metrics["new"]["macro_ap"] == 1
    assert [tier["labels"] for tier in metrics["tiers"].values()] == [8]


def test_the_result_cannot_be_saved(fitted, tmp_path):
    with pytest.raises(RunError, match="not allowed after with_new_labels"):
        fitted.with_new_labels(NEW).save(tmp_path / "run")


def test_seen_and_new_labels_are_scored_apart(fitted, asked):
    metrics = fitted.with_new_labels(NEW).evaluate(asked)
    rows = [json.loads(line) for line in asked.read_text().splitlines()]
    new = sum(label in NEW for row in rows for label in row["labels"])
    assert metrics["new"]["labels"], metrics["seen"]["labels"] == (2, 8)
    assert metrics["new"]["positives"] == new
    assert metrics["new"]["macro_ap"] == 1  # each text names its labels
    assert metrics["new"]["recall@10"] == 1  # of ten labels
    assert "new" not in fitted.evaluate(asked)


def test_recall_counts_the_best_ten_of_all_labels():
    scores = torch.arange(12.0).flip(0).repeat(2, 1)  # labels 10 and 11 are not among the best ten
    truth = SparseLabels.from_lists([[0, 10], [9, 11]], num_labels=12)
    seen, new = seen_and_new(scores, truth, 3)
    assert (seen["recall@10"], seen["positives"]) == (1, 1)
    assert (new["recall@10"], new["positives"]) == (pytest.approx(1 / 3), 3)


class TestCommandLine:
    def test_predict_and_evaluate(self, run, asked, table, tmp_path):
        out = tmp_path / "predictions.jsonl"
        done("classify", "predict", run, asked, "--out", out, "--new-labels", table)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        named = [row for row in map(json.loads, asked.read_text().splitlines()) if "kiwi" in row["labels"]]
        decided = {row["id"]: row["labels"] for row in rows}
        assert all("kiwi" in decided[row["id"]] for row in named)
        said = done("classify", "evaluate", run, asked, "--new-labels", table, "--json")
        assert json.loads(said)["new"]["macro_ap"] == 1

    def test_blocks_give_the_same(self, run, asked, table, tmp_path):
        outs = [tmp_path / name for name in ("whole.jsonl", "blocks.jsonl")]
        for out, blocks in zip(outs, ((), ("--block", "7")), strict=True):
            done(
                "classify",
                "predict",
                run,
                asked,
                "--out",
                out,
                "--new-labels",
                table,
                "--new-boost",
                "1",
                *blocks,
            )
        assert outs[0].read_text() == outs[1].read_text()

    def test_a_boost_needs_labels(self, run, asked, tmp_path):
        options = ("--out", tmp_path / "predictions.jsonl", "--new-boost", "1")
        assert "--new-labels" in refused("classify", "predict", run, asked, *options)


@pytest.fixture(scope="module")
def predictor(run):
    """Return the predictor of the run, as a service has it."""
    return load_classify(run, "v")


class TestService:
    def ask(self, predictor, *labels):
        request = ClassifyRequest(texts=["kiwi and fig"], new_labels=[NewLabel(label) for label in labels])
        return predictor.answer([request, ClassifyRequest(texts=["fig"])])

    def test_an_answer_has_them_and_others_do_not(self, predictor):
        asked, other = self.ask(predictor, *NEW)
        assert "kiwi" in asked.answers[0].labels
        assert {each.label for each in asked.answers[0].scores} == {*FRUITS, *NEW}
        assert {each.label for each in other.answers[0].scores} == set(FRUITS)
        assert predictor.card()["new_labels"] is True

    def test_a_known_label_is_refused_and_others_are_answered(self, predictor):
        asked, other = self.ask(predictor, "fig")
        assert (asked.status, asked.fault.reason, asked.fault.where) == (422, "new_labels", "$.new_labels")
        assert other.answers[0].labels

    def test_the_last_lists_are_kept(self, predictor):
        for number in range(CATALOGUES + 2):
            self.ask(predictor, f"kiwi {number}")
        assert len(predictor._widened) == CATALOGUES

    def test_another_engine_refuses(self, run):
        fit = read_fit(RunFolder.open(run))
        predictor = ClassifyPredictor(fit, "v", lambda texts: fit.model.answer(pl.Series(texts))[:2])
        asked, _ = self.ask(predictor, *NEW)
        assert "--engine torch" in str(asked)
        assert predictor.card()["new_labels"] is False
