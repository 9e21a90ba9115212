"""Scoring documents that were trained on is not a test, and is called what it is."""

import json

import polars as pl
import pytest
from click.testing import CliRunner

from hyperfocal import MultiLabelClassifier
from hyperfocal.cli.main import main
from hyperfocal.data.documents import Documents
from text_cases import FAST, corpus

TEXTS, LABELS = corpus()
NEW, NEW_LABELS = corpus(40, seed=1)
VALID = corpus(60, seed=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    MultiLabelClassifier(settings=FAST).fit(TEXTS, LABELS, valid=VALID, out=path)
    return path


def trained(classifier, texts, labels):
    return classifier.evaluate(Documents.from_lists(texts, labels))["data"]["training_documents"]


class TestCount:
    def test_all_some_and_none(self, run):
        classifier = MultiLabelClassifier.load(run)
        assert trained(classifier, TEXTS, LABELS) == 160
        assert not set(NEW) & set(TEXTS)
        assert trained(classifier, NEW, NEW_LABELS) == 0
        assert trained(classifier, TEXTS[:3] + ["sport1 unseen"] * 2, LABELS[:3] + [["sport"]] * 2) == 3

    def test_an_empty_text_is_not_known_again(self):
        classifier = MultiLabelClassifier(settings=FAST).fit([*TEXTS, ""], [*LABELS, ["sport"]], valid=VALID)
        assert trained(classifier, [TEXTS[0], "", ""], [["sport"]] * 3) == 1

    def test_a_saved_run_knows_them_too(self, run, tmp_path):
        MultiLabelClassifier.load(run).save(tmp_path / "copy")
        assert trained(MultiLabelClassifier.load(tmp_path / "copy"), TEXTS, LABELS) == 160

    @pytest.mark.parametrize(("refit", "count"), [(False, 0), (True, 60)])
    def test_validation_documents_count_if_the_head_was_trained_on_them(self, refit, count):
        assert not set(VALID[0]) & set(TEXTS)
        classifier = MultiLabelClassifier(settings=FAST | {"train.refit": refit}).fit(TEXTS, LABELS, valid=VALID)
        assert trained(classifier, *VALID) == count

    def test_a_run_without_checksums(self, run, tmp_path):
        MultiLabelClassifier.load(run).save(tmp_path / "old")
        (tmp_path / "old/texts.safetensors").unlink()
        assert trained(MultiLabelClassifier.load(tmp_path / "old"), TEXTS, LABELS) is None


class TestShown:
    def shown(self, run, texts, labels, tmp_path, *options):
        path = tmp_path / "docs.jsonl"
        pl.DataFrame({"text": texts, "labels": labels}).write_ndjson(path)
        return CliRunner().invoke(main, ["classify", "evaluate", str(run), str(path), *options]).output

    def test_all(self, run, tmp_path):
        shown = self.shown(run, TEXTS, LABELS, tmp_path)
        assert shown.startswith("Training documents, 160 documents")
        assert "This is not a test: all texts were in training." in shown

    def test_some(self, run, tmp_path):
        shown = self.shown(run, [*TEXTS[:3], "sport1 unseen"], [*LABELS[:3], ["sport"]], tmp_path)
        assert shown.startswith("Training and test documents, 4 documents")
        assert "3 of 4 documents (75.0%) were in training." in shown
        shown = self.shown(run, [TEXTS[0], *NEW], [LABELS[0], *NEW_LABELS], tmp_path)
        assert shown.startswith("Test, 41 documents")
        assert "1 of 41 documents (2.4%) were in training." in shown

    def test_none(self, run, tmp_path):
        shown = self.shown(run, ["sport1 unseen", "music"], [["sport"], ["music"]], tmp_path)
        assert shown.startswith("Test, 2 documents")
        assert "in training" not in shown

    def test_unknown(self, run, tmp_path):
        MultiLabelClassifier.load(run).save(tmp_path / "old")
        (tmp_path / "old/texts.safetensors").unlink()
        assert self.shown(tmp_path / "old", TEXTS, LABELS, tmp_path).startswith("Documents, 160 documents")

    def test_json(self, run, tmp_path):
        shown = self.shown(run, TEXTS, LABELS, tmp_path, "--json")
        assert json.loads(shown)["data"]["training_documents"] == 160
