"""What a classifier learns from: read, split, numbered, and everything that is left out counted."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from hyperfocal.classify.label_model import with_parents
from hyperfocal.classify.prepare import (
    check_texts,
    number,
    prepare,
    with_tree_labels,
)
from hyperfocal.config.classify import ClassifySettings, TextDataSettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import DataError, LeakError
from hyperfocal.labels import SparseLabels
from text_cases import corpus

SETTINGS = ClassifySettings()
TREE = Taxonomy(["1", "2", "3", "4"], ["Food", "Wine", "Red wine", "Cars"], [-1, 0, 1, -1])
TREE_ROWS = "id\tparent\tname\n1\t\tFood\n2\t1\tWine\n3\t2\tRed wine\n4\t\tCars\n"


@pytest.fixture
def tree_settings(tmp_path):
    """Return the settings of a run with a small taxonomy, and others on top."""
    path = tmp_path / "tree.tsv"
    path.write_text(TREE_ROWS)
    return lambda **others: resolve(
        ClassifySettings, None, {"data.taxonomy": str(path)} | {f"data.{name}": value for name, value in others.items()}
    )


def documents(labels, **others):
    return Documents.from_lists([f"text {place}" for place in range(len(labels))], labels, **others)


class TestReading:
    def test_lists_frames_files_and_documents_are_the_same(self, tmp_path):
        rows = [{"text": "red wine", "labels": ["wine", "red"]}, {"text": "", "labels": ["beer"]}]
        path = tmp_path / "docs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        frame = pl.DataFrame(rows)
        lists = Documents.from_lists([row["text"] for row in rows], [row["labels"] for row in rows])
        for data in (lists, path, str(path), frame, frame.lazy(), pd.DataFrame(rows), frame.to_arrow()):
            found = as_documents(data, TextDataSettings())
            assert found.texts.to_list() == ["red wine", ""]
            assert found.labels.to_list() == [["wine", "red"], ["beer"]]

    def test_anything_else_is_refused(self):
        with pytest.raises(DataError, match="int is not a source of rows"):
            as_documents(42, TextDataSettings())

    def test_an_id_twice(self, tmp_path):
        path = tmp_path / "docs.csv"
        path.write_text("id,text,labels\n7,a,x\n8,b,y\n7,c,x\n")
        with pytest.raises(DataError, match=r"line 4: id '7' is already at .* line 2"):
            prepare(path, None, SETTINGS)

    def test_texts_in_a_list(self):
        assert check_texts(np.array(["a", "b"])) == ["a", "b"]
        assert check_texts(("a", None)) == ["a", None]
        with pytest.raises(DataError, match="one text was given"):
            check_texts("a text")
        with pytest.raises(DataError, match="number 1 is a float, not a text"):
            check_texts(["a", 2.5])

    @pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
    def test_missing_texts_are_empty(self, missing):
        assert check_texts(pd.Series(["a", missing], dtype=object)) == ["a", None]

    def test_columns_of_every_library_are_lists_and_frames_are_not(self):
        for column in (pd.Series(["a", None]), pl.Series(["a", None]), pa.array(["a", None])):
            assert check_texts(column) == ["a", None]
        for frame in (pd.DataFrame({"text": ["a"]}), pl.DataFrame({"text": ["a"]}), {"text": ["a"]}, {"a", "b"}):
            with pytest.raises(DataError, match=f"a {type(frame).__name__} was given. Expected a list of texts"):
                check_texts(frame)


class TestPreparing:
    def test_every_label_trains_and_shares_are_kept(self):
        texts, labels = corpus(400)
        data = prepare(Documents.from_lists(texts, labels), None, SETTINGS)
        assert len(data.train) + len(data.valid) == 400
        assert len(data.valid) == pytest.approx(0.15 * 400, abs=2)
        assert data.valid.unseen == {}
        total = data.train.labels.counts() + data.valid.labels.counts()
        assert dict(zip(data.vocabulary.ids, total.tolist(), strict=True)) == {
            name: sum(name in row for row in labels) for name in sorted({name for row in labels for name in row})
        }
        torch.testing.assert_close(data.valid.labels.counts() / total, torch.full((6,), 0.15), atol=0.06, rtol=0)

    def test_the_seed_draws_the_split(self):
        texts, labels = corpus()
        docs = Documents.from_lists(texts, labels)
        first, same, other = (prepare(docs, None, ClassifySettings(seed=seed)) for seed in (0, 0, 1))
        assert first.fingerprint() == same.fingerprint() != other.fingerprint()

    def test_documents_without_text_or_labels_are_kept_and_counted(self):
        docs = Documents.from_lists(["a", "", None, "b", "b"], [["x"], ["y"], [], [], ["x"]])
        data = prepare(docs, documents([["x"]]), SETTINGS)
        assert data.counts()["train"] == {
            "documents": 5,
            "empty_texts": 2,
            "without_labels": 2,
            "duplicate_texts": 1,
            "positives": 3,
            "unseen_labels": {},
        }
        assert data.train.labels.lengths.tolist() == [1, 1, 0, 0, 1]

    def test_a_label_only_in_validation_is_counted_by_name_and_left_out(self):
        valid = documents([["x", "new"], ["new"], ["newer", "y"]])
        data = prepare(documents([["x"], ["y"]]), valid, SETTINGS)
        assert data.valid.unseen == {"new": 2, "newer": 1}
        assert data.counts()["valid"]["unseen_labels"] == {"new": 2, "newer": 1}
        assert data.valid.labels.to_dense().tolist() == [[1, 0], [0, 0], [0, 1]]
        assert data.counts()["labels"] == 2

    def test_labels_in_every_document_are_named(self):
        data = prepare(documents([["x", "all"], ["all"], ["all", "y"]]), documents([["x"]]), SETTINGS)
        assert data.counts()["labels_in_every_document"] == ["all"]

    def test_not_one_label(self, tmp_path):
        with pytest.raises(DataError, match="no training document has a label"):
            prepare(documents([[], [], []]), documents([["x"]]), SETTINGS)
        path = tmp_path / "docs.csv"
        path.write_text("text,labels\na,\nb,\n")
        with pytest.raises(DataError, match="has no label in any of 2 rows"):
            prepare(path, None, SETTINGS)

    @pytest.mark.parametrize(
        ("labels", "words"),
        [([[], []], r"training has\. Give"), ([["z"]], "training has; they have other labels, such as 'z'")],
    )
    def test_a_validation_without_labels_of_training(self, labels, words):
        with pytest.raises(DataError, match=f"validation documents: not one of {len(labels)} has a label that {words}"):
            prepare(documents([["x"], ["y"]]), documents(labels), SETTINGS)

    def test_a_group_on_both_sides(self):
        train = documents([["x"], ["y"]], groups=["g", None])
        with pytest.raises(LeakError, match="1 of its 2 groups are in training too, first 'g'"):
            prepare(train, documents([["x"], ["y"]], groups=["g", "h"]), SETTINGS)

    def test_an_id_on_both_sides(self):
        with pytest.raises(LeakError, match="first '7'"):
            prepare(documents([["x"]], ids=["7"]), documents([["x"]], ids=["7"]), SETTINGS)

    def test_the_split_keeps_groups_together(self):
        texts, labels = corpus()
        groups = [str(place // 4) for place in range(len(texts))]
        data = prepare(Documents.from_lists(texts, labels, groups=groups), None, SETTINGS)
        assert not set(data.train.documents.groups) & set(data.valid.documents.groups)


class TestFingerprint:
    def of(self, docs=None, valid=None, settings=SETTINGS):
        docs = documents([["1"], ["4"]]) if docs is None else docs
        return prepare(docs, documents([["1"], ["4"]]) if valid is None else valid, settings).fingerprint()

    def test_it_tells_texts_labels_and_groups_apart(self):
        different = [
            self.of(),
            self.of(Documents.from_lists(["text 0", "text x"], [["1"], ["4"]])),
            self.of(documents([["1"], ["4", "1"]])),
            self.of(valid=documents([["4"], ["1"]])),
            self.of(valid=documents([["1"], ["4"]], groups=["g", "h"])),
            self.of(valid=documents([["1"], ["4"]], groups=["g", "g"])),
        ]
        assert len(set(different)) == len(different)

    def test_and_taxonomies(self, tree_settings, tmp_path):
        settings = tree_settings()
        before = self.of(settings=settings)
        assert before != self.of()
        (tmp_path / "tree.tsv").write_text(TREE_ROWS.replace("3\t2", "3\t4"))
        assert self.of(settings=settings) != before

    def test_but_not_names_of_groups(self):
        found = [self.of(valid=documents([["1"], ["4"]], groups=groups)) for groups in (["a", "b"], ["c", "d"])]
        assert found[0] == found[1]


class TestTaxonomy:
    def test_names_become_ids(self, tree_settings):
        docs = documents([["Wine", "2"], ["Cars"]])
        found = with_tree_labels(docs, TREE, tree_settings().data)
        assert found.labels.to_list() == [["2"], ["4"]]

    def test_parents_are_added_where_asked(self, tree_settings):
        docs = documents([["Red wine"], ["4", "2"], []])
        found = with_tree_labels(docs, TREE, tree_settings(add_parents=True).data)
        assert [sorted(row) for row in found.labels.to_list()] == [["1", "2", "3"], ["1", "2", "4"], []]

    def test_without_a_taxonomy_labels_stay(self):
        docs = documents([["Wine"]])
        assert with_tree_labels(docs, None, TextDataSettings()) is docs

    @pytest.mark.parametrize("part", ["train", "valid"])
    def test_a_label_that_it_does_not_have(self, tree_settings, part):
        parts = {"train": documents([["1"]]), "valid": documents([["1"]])}
        parts[part] = documents([["Wien", "Bear", "1"]])
        with pytest.raises(DataError, match="2 labels are not in the taxonomy, first 'Bear'"):
            prepare(parts["train"], parts["valid"], tree_settings())

    def test_decided_labels_bring_the_parents_that_training_has(self):
        vocabulary = Vocabulary(pl.Series(["3", "4", "1"]))  # "2", between "3" and "1", is no label of training
        decided = SparseLabels.from_lists([[0], [1], [], [0, 1, 2]], num_labels=3)
        assert with_parents(decided, vocabulary, TREE).to_dense().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1] * 3]

    def test_nothing_decided_brings_nothing(self):
        decided = SparseLabels.from_lists([[], []], num_labels=3)
        found = with_parents(decided, Vocabulary(pl.Series(["3", "4", "1"])), TREE)
        assert found.to_dense().tolist() == [[0] * 3] * 2


class TestNumbering:
    def test_rows_keep_their_labels_in_whatever_order(self):
        found = number(documents([["b", "a"], [], ["c", "x"], ["x"]]), Vocabulary(pl.Series(["c", "b", "a"])))
        assert found.labels.to_dense().tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
        assert found.unseen == {"x": 2}
        assert len(found) == 4

    def test_labels_that_are_missing_are_none(self):
        docs = documents([["a"], ["b"]])
        docs = replace(docs, labels=pl.Series("labels", [["a"], None], dtype=pl.List(pl.String)))
        assert number(docs, Vocabulary(pl.Series(["a"]))).labels.to_dense().tolist() == [[1], [0]]
