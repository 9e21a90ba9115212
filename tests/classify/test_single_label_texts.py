"""One label per document, with the names of the classes as an input, and classes that training never saw."""

import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from command_cases import done
from hyperfocal.classify.acceptance import Judged
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.combination import Combination
from hyperfocal.classify.new_labels import fit_headless_of_one
from hyperfocal.classify.opinions import Shares
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.thresholds import Decisions
from tail_cases import FREQUENT, QUICK, RARE

NEW_CLASSES = ("plum", "lemon")
SETTINGS = QUICK | {"train.baselines": "off"}


def corpus(number=400, *, seed=0, rare=RARE):
    """Return texts and one class each: frequent classes with words of their own, rare ones with their name."""
    rng = np.random.default_rng(seed)
    texts, classes = [], []
    for _ in range(number):
        common = rng.choice(["old", "new", "the", "of"], size=4).tolist()
        if rng.random() < 0.6:
            name = FREQUENT[rng.integers(3)]
            word = f"{name[:2]}{rng.integers(4)}"
        else:
            name = rare[rng.integers(len(rare))]
            word = name + rng.choice(["s", "ing", "ed", "es"])
        texts.append(" ".join([*common, word]))
        classes.append(name)
    return texts, classes


TEXTS, CLASSES = corpus()
NEW = corpus(200, seed=1)


@pytest.fixture(scope="module")
def fitted():
    return MultiLabelClassifier(settings=SETTINGS).fit(TEXTS, CLASSES)


@pytest.fixture(scope="module")
def off():
    return MultiLabelClassifier(settings=SETTINGS, label_texts="off").fit(TEXTS, CLASSES)


def test_names_make_rare_classes_right(fitted, off):
    values, without = (each.evaluate(NEW)["values"] for each in (fitted, off))
    assert fitted.metrics_["opinions"]["accepted"]
    assert not off.metrics_["opinions"]["accepted"]
    assert values["argmax.accuracy"] > without["argmax.accuracy"] + 0.1
    assert values["argmax.macro_f1"] > without["argmax.macro_f1"] + 0.2
    assert values["log_loss"] < without["log_loss"]
    assert torch.equal(fitted.head_.wide, off.head_.wide)  # training stays as it is


def test_probabilities_confusions_and_calibration_are_of_the_combined_scores(fitted):
    texts, classes = NEW
    scores = torch.from_numpy(fitted.decision_function(texts))
    probabilities = fitted.predict_proba(texts)
    expected = (scores / fitted.decisions_.temperature).softmax(1).numpy()
    assert probabilities == pytest.approx(expected, abs=1e-5)
    metrics = fitted.evaluate(NEW)
    right = np.mean(fitted.predict(texts) == np.array(classes))
    assert metrics["values"]["argmax.accuracy"] == pytest.approx(right)
    wrong = sum(pair["documents"] for pair in metrics["confusion"]["pairs"])
    assert wrong <= round(200 * (1 - right))
    own = probabilities[np.arange(200), np.searchsorted(fitted.classes_, classes)]
    assert metrics["values"]["log_loss"] == pytest.approx(-np.log(own).mean(), rel=1e-4)


def test_names_that_are_nowhere_are_refused():
    numbers = {name: f"zz{place}qq" for place, name in enumerate(dict.fromkeys(CLASSES))}
    own = MultiLabelClassifier(settings=SETTINGS).fit(TEXTS, [numbers[name] for name in CLASSES])
    assert not own.metrics_["opinions"]["accepted"]
    assert own.fit_.model.combination.weights == {}


def test_integers_have_no_names():
    own = MultiLabelClassifier(settings=SETTINGS).fit(TEXTS, [len(name) for name in CLASSES])
    assert own.metrics_["opinions"]["rows"] == []


class TestNewClasses:
    ASKED = corpus(300, seed=2, rare=(*RARE[:4], *NEW_CLASSES))

    def test_they_are_decided_and_probabilities_sum_to_one(self, fitted):
        wider = fitted.with_new_labels(NEW_CLASSES)
        texts, classes = map(np.array, self.ASKED)
        assert sorted(wider.classes_) == sorted([*fitted.classes_, *NEW_CLASSES])
        assert wider.predict_proba(texts).sum(1) == pytest.approx(1, abs=1e-5)
        new = np.isin(classes, NEW_CLASSES)
        assert new.sum() > 20
        assert np.mean(wider.predict(texts)[new] == classes[new]) > 0.9
        assert np.mean(wider.predict(texts[~new]) == fitted.predict(texts[~new])) > 0.95

    def test_they_are_scored_apart(self, fitted):
        metrics = fitted.with_new_labels(NEW_CLASSES).evaluate(self.ASKED)
        assert metrics["new"]["labels"] == 2
        assert metrics["new"]["macro_ap"] > 0.95

    def test_a_boost_is_added(self, fitted):
        plain, boosted = (fitted.with_new_labels(NEW_CLASSES, boost=b).predict_proba(["the old"])[0] for b in (0, 9))
        place = fitted.with_new_labels(NEW_CLASSES).classes_.tolist().index("lemon")
        assert boosted[place] > plain[place]

    def test_balanced_offsets(self):
        own = MultiLabelClassifier(settings=SETTINGS, decide="balanced").fit(TEXTS, CLASSES)
        wider = own.with_new_labels(NEW_CLASSES)
        counts, offsets = own.counts_, own.decisions_.thresholds
        expected = offsets[counts == counts.min()].mean()
        assert wider.decisions_.thresholds[-2:].tolist() == pytest.approx([float(expected)] * 2)
        assert wider.predict(["the plums"]).tolist() == ["plum"]

    def test_classes_of_another_type_are_refused(self, tmp_path):
        numbers = {name: place for place, name in enumerate(dict.fromkeys(CLASSES))}
        table = tmp_path / "names.csv"
        table.write_text("label,name\n" + "".join(f"{place},{name}\n" for name, place in numbers.items()))
        own = MultiLabelClassifier(settings=SETTINGS, label_texts=str(table))
        own.fit(TEXTS, [numbers[name] for name in CLASSES])
        assert own.metrics_["opinions"]["accepted"]
        with pytest.raises(DataError, match="'plum'"):
            own.with_new_labels(["plum"])

    def test_the_command_line(self, tmp_path):
        rows = [{"text": text, "label": name} for text, name in zip(TEXTS, CLASSES, strict=True)]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "new.csv").write_text("label,name\nfruit,plum\n")
        (tmp_path / "asked.jsonl").write_text('{"text": "old plums"}\n{"text": "the zaboras"}\n')
        options = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        said = done("classify", "fit", tmp_path / "train.jsonl", "--single", "--out", tmp_path / "run", *options)
        assert "What the label texts add" in said
        asked = ("classify", "predict", tmp_path / "run", tmp_path / "asked.jsonl", "--out", tmp_path / "p.jsonl")
        done(*asked, "--new-labels", tmp_path / "new.csv")
        answers = [json.loads(line)["label"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        assert answers == ["fruit", "zabora"]


def test_a_new_class_competes_with_the_scores_of_the_others():
    """Truth is drawn from the softmax of 3 f - 1, so each class in turn is fitted back as offset -1 and weight 3."""
    generator = torch.Generator().manual_seed(0)
    shares = (torch.rand(4_000, 5, generator=generator) < 0.3).float()
    scores = 3 * shares.double() - 1
    truth = torch.multinomial(scores.softmax(1), 1, generator=generator)
    labels = SparseLabels.from_csr(torch.arange(4_001), truth[:, 0], num_labels=5)
    for temperature in (1.0, 2.0):
        judged = Judged(
            temperature * scores,
            {"text": Shares(csr_matrix(shares.numpy()))},
            labels,
            labels.counts(),
            "macro_ap",
            0,
            True,
        )
        decisions = Decisions(torch.zeros(5), one="argmax", temperature=temperature)
        headless = fit_headless_of_one(judged, Combination(), decisions)
        assert headless.weights["text"] == pytest.approx(3 * temperature, rel=0.1)
        assert headless.offset == pytest.approx(-1 * temperature, abs=0.15 * temperature)
