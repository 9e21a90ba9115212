"""Counts that are merged on disk against scikit-learn's, which are made at once."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from hyperfocal.data import ngrams as term_counts
from hyperfocal.data.ngrams import TermCounts

TEXTS = ["the red fox and the dog", "a dog", "the red dog", "käse und the fox", "", "fox fox fox"]


def counted(work, blocks):
    counts = TermCounts(work)
    for block in blocks:
        vectorizer = CountVectorizer()
        matrix = vectorizer.fit_transform(block)
        counts.add(vectorizer.get_feature_names_out().tolist(), (matrix > 0).sum(0).A1, matrix.sum(0).A1)
    return counts


@pytest.fixture(params=[4_000_000, 3, 0], ids=["in memory", "some on disk", "all on disk"])
def counts(request, monkeypatch, tmp_path):
    monkeypatch.setattr(term_counts, "PENDING", request.param)
    monkeypatch.setattr(term_counts, "PARTITIONS", 3)
    monkeypatch.setattr("hyperfocal.data.partitions.PARTITIONS", 3)
    monkeypatch.setattr(term_counts, "MERGED", 2)
    return counted(tmp_path, [TEXTS[:2], TEXTS[2:4], TEXTS[4:]])


@pytest.mark.parametrize("least", [1, 2, 3])
def test_they_are_those_of_all_texts_at_once(counts, least):
    vectorizer = CountVectorizer(min_df=least)
    matrix = vectorizer.fit_transform(TEXTS)
    found = counts.frequent(least, 100)
    assert found["term"].to_list() == vectorizer.get_feature_names_out().tolist()
    assert found["documents"].to_list() == (matrix > 0).sum(0).A1.tolist()
    assert found["times"].to_list() == matrix.sum(0).A1.tolist()


def test_the_most_frequent_are_kept_and_of_equals_the_first_by_name(counts):
    assert counts.frequent(1, 3)["term"].to_list() == ["dog", "fox", "the"]  # 3, 5 and 4 times
    assert counts.frequent(1, 5)["term"].to_list() == ["and", "dog", "fox", "red", "the"]  # red twice; and, käse, und


def test_none_is_frequent_enough(counts):
    assert counts.frequent(9, 10).is_empty()
    assert np.all(counts.frequent(1, 1)["documents"].to_numpy() == [3])
