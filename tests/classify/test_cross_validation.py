"""Decisions from out-of-fold scores: every document trains, and none is decided by a head that saw it."""

import itertools

import polars as pl
import pytest
import torch

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.head import score_documents, train_head
from hyperfocal.classify.prepare import prepare
from hyperfocal.classify.training import cross_scores, score_prepared
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.documents import Documents
from hyperfocal.data.stratify import ALGORITHM
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.models.text_head import Features
from hyperfocal.storage.run_folder import MODEL, RunFolder
from text_cases import FAST, corpus
from watch_cases import on_step

FOLDS = FAST | {"train.folds": 3}
TEXTS, LABELS = corpus(120)


def classifier(**more):
    return MultiLabelClassifier(settings=FOLDS | more)


class TestScores:
    settings = resolve(ClassifySettings, None, {"train.epochs": 2, "train.threads": 1})
    rows = Features(None, torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
    truth = SparseLabels.from_lists([[number % 3] for number in range(12)], num_labels=3)
    folds = torch.arange(12) % 4

    def test_each_fold_is_scored_by_a_head_that_the_others_trained(self):
        found = cross_scores((self.rows, self.truth), self.folds, 0, self.settings)
        for fold in range(4):
            others, own = (self.folds != fold).nonzero()[:, 0], (self.folds == fold).nonzero()[:, 0]
            part = self.rows.select(others), self.truth.select(others)
            head, _ = train_head(part, None, 0, self.settings)
            assert torch.equal(found[own], score_documents(head, self.rows.select(own)))

    def test_no_document_sees_its_own_truth(self):
        before = cross_scores((self.rows, self.truth), self.folds, 0, self.settings)
        other = SparseLabels.from_lists(
            [[(number + (number % 4 == 0)) % 3] for number in range(12)], num_labels=3
        )  # the first fold's truth is another
        after = cross_scores((self.rows, other), self.folds, 0, self.settings)
        same = (before == after).all(1)
        assert same.tolist() == (self.folds == 0).tolist()

    def test_folds_that_are_done_are_not_done_again(self, tmp_path):
        run, trained = RunFolder(tmp_path), []
        expected = cross_scores((self.rows, self.truth), self.folds, 0, self.settings, run)
        (tmp_path / "checkpoints/fold2.safetensors").unlink()
        found = cross_scores(
            (self.rows, self.truth), self.folds, 0, self.settings, run, on_step(lambda *_: trained.append(len(trained)))
        )
        assert torch.equal(found, expected)
        assert 0 < len(trained) <= 2 * 2  # one training of two epochs


@pytest.fixture(scope="module")
def fitted():
    return classifier().fit(TEXTS, LABELS)


class TestFitting:
    def test_all_documents_train_and_all_are_scored(self, fitted):
        assert fitted.num_documents_ == fitted.metrics_["documents"] == len(TEXTS)
        assert fitted.metrics_["data"]["out_of_fold"]
        assert fitted.metrics_["values"]["tuned.micro_f1"] > 0.6

    def test_the_head_is_that_of_all_documents(self, fitted):
        """Its epochs have no validation metric: there is nothing left to choose on."""
        assert [row["epoch"] for row in fitted.history_] == [1, 2, 3]
        assert all("macro_ap" not in row for row in fitted.history_)

    def test_a_label_with_one_document_is_learnt_too(self):
        labels = [[*row, "once"] if place == 7 else row for place, row in enumerate(LABELS)]
        found = classifier().fit(TEXTS, labels)
        assert dict(zip(found.classes_, found.counts_.tolist(), strict=True))["once"] == 1

    def test_an_interrupted_run_ends_with_the_same_bytes(self, fitted, tmp_path):
        """Stopped in the third of four trainings, that of the last fold."""
        calls = itertools.count()

        def stop(*_):
            if next(calls) == 2 * 2 * 3:  # each epoch of two steps calls once at its end and once after validation
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            classifier().fit(TEXTS, LABELS, out=tmp_path / "run", watch=on_step(stop))
        with pytest.raises(RunError, match=r"training has not finished\. Continue it"):
            MultiLabelClassifier.load(tmp_path / "run")
        assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == [
            "fold0.safetensors",
            "fold1.safetensors",
        ]
        classifier().fit(TEXTS, LABELS, out=tmp_path / "run", resume=True)
        fitted.save(tmp_path / "whole")
        for name in (MODEL, "thresholds.json", "metrics.json"):
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def test_a_run_with_the_folds_of_an_earlier_version_is_refused(self, tmp_path, monkeypatch):
        """It may have the scores of finished folds, which would be taken for those of other documents."""
        calls = itertools.count()

        def stop(*_):
            if next(calls) == 2 * 2 * 3:
                raise KeyboardInterrupt

        monkeypatch.setattr("hyperfocal.classify.prepare.ALGORITHM", ALGORITHM - 1)
        with pytest.raises(KeyboardInterrupt):
            classifier().fit(TEXTS, LABELS, out=tmp_path / "run", watch=on_step(stop))
        monkeypatch.undo()
        with pytest.raises(RunError, match=r"with another split, .* or by an earlier version\. Give the same files"):
            classifier().fit(TEXTS, LABELS, out=tmp_path / "run", resume=True)
        classifier().fit(TEXTS, LABELS, out=tmp_path / "run", overwrite=True)

    def test_a_point_of_a_grid_is_scored_without_the_head_of_all(self, fitted):
        settings = resolve(ClassifySettings, None, FOLDS)
        found = score_prepared(prepare(Documents.from_lists(TEXTS, LABELS), None, settings), settings)
        assert found.metrics["values"] == pytest.approx(fitted.metrics_["values"], abs=0, nan_ok=True)


class TestBadInput:
    def test_folds_where_other_documents_validate_and_the_reverse(self):
        """Chosen and scored on its own training documents, a point of a grid would win."""
        documents = Documents.from_lists(TEXTS, LABELS)
        crossed, split = (prepare(documents, None, resolve(ClassifySettings, None, s)) for s in (FOLDS, FAST))
        for settings, data in ((FAST, crossed), (FOLDS, split)):
            with pytest.raises(ConfigError, match="does not match the split of these documents"):
                score_prepared(data, resolve(ClassifySettings, None, settings))
            with pytest.raises(ConfigError, match="does not match the split of these documents"):
                MultiLabelClassifier(settings=settings).fit_prepared(data)

    @pytest.mark.parametrize(("groups", "what"), [(None, "120 documents"), (["a", "b"] * 60, "2 groups of documents")])
    def test_fewer_documents_or_groups_than_folds(self, groups, what):
        frame = pl.DataFrame({"text": TEXTS, "labels": LABELS, **({"group": groups} if groups else {})})
        settings = FOLDS | {"train.folds": 3 if groups else 121, "data.group": "group" if groups else ""}
        with pytest.raises(DataError, match=rf"{what} cannot make train\.folds = "):
            MultiLabelClassifier(settings=settings).fit(frame)

    def test_validation_documents_have_no_use(self):
        with pytest.raises(ConfigError, match=r"train\.folds: .* no use for validation documents\. Leave `valid=` out"):
            classifier().fit(TEXTS, LABELS, valid=(TEXTS, LABELS))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"train.folds": 1}, r"train\.folds = 1 is not allowed\. Expected 2 or more"),
            ({"train.refit": True}, r"train\.refit adds nothing to train\.folds"),
            ({"features.kind": "encoder", "features.finetune": True}, r"train\.folds works with a frozen encoder"),
        ],
    )
    def test_settings_that_do_not_go_together(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            classifier(**settings).fit(TEXTS, LABELS)


def test_a_validation_matrix_has_the_columns_of_the_training_matrix():
    matrix = torch.eye(4).repeat(10, 1).numpy()
    with pytest.raises(DataError, match="matrix of 4 columns and these are an indicator matrix of 3"):
        MultiLabelClassifier(settings=FAST).fit(TEXTS[:40], matrix, valid=(TEXTS[:8], matrix[:8, :3]))
    with pytest.raises(DataError, match="of 4 columns and these are lists of labels"):
        MultiLabelClassifier(settings=FAST).fit(TEXTS[:40], matrix, valid=(TEXTS[:2], [["0"], ["1"]]))
