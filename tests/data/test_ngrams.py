"""N-grams against scikit-learn's own pipelines."""

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.pipeline import make_pipeline, make_union

from hyperfocal.config.classify import FeatureSettings
from hyperfocal.data import ngrams as ngrams_module
from hyperfocal.data.ngrams import Ngrams, TermCounts
from hyperfocal.errors import DataError

quick = settings(deadline=None, max_examples=40)
TRAIN = [
    "The red fox runs; the red fox jumps",
    "a red dog runs and runs and runs",
    "",
    "Käse und Brot, und 2 Äpfel",
    "the brown dog eats Käse",
    "!!! ...",
]
NEW = ["red red dog", "nothing known here", "", "KÄSE the fox"]


def series(rows: list[str]) -> pl.Series:
    return pl.Series("text", rows, dtype=pl.String)


def oracle(rows: FeatureSettings):
    """Return scikit-learn's pipeline of the same settings."""
    cuts = []
    if rows.word_ngrams:
        cuts.append({"analyzer": "word", "ngram_range": (1, rows.word_ngrams)})
    if rows.char_ngrams:
        cuts.append({"analyzer": "char_wb", "ngram_range": (3, rows.char_ngrams)})
    if rows.hashed:
        hashing = {"n_features": rows.max_features, "alternate_sign": False, "norm": None}
        return [make_pipeline(HashingVectorizer(**hashing, **cut), TfidfTransformer(sublinear_tf=True)) for cut in cuts]
    limits = {"min_df": rows.min_documents, "max_features": rows.max_features}
    return [TfidfVectorizer(sublinear_tf=True, **limits, **cut) for cut in cuts]


OPTIONS = [
    {},
    {"word_ngrams": 1},
    {"word_ngrams": 3, "min_documents": 1},
    {"word_ngrams": 0, "char_ngrams": 4},
    {"char_ngrams": 5},
    {"char_ngrams": 3, "max_features": 7},
    {"max_features": 3, "min_documents": 1},
    {"hashed": True, "max_features": 32},
    {"hashed": True, "max_features": 64, "char_ngrams": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
class TestAgainstScikitLearn:
    def test_values(self, options):
        chosen = FeatureSettings(**options)
        ngrams, parts = Ngrams.fit(series(TRAIN), chosen), oracle(chosen)
        whole = make_union(*parts).fit(TRAIN)
        for rows in (TRAIN, NEW):
            found = ngrams.transform(series(rows))
            expected = whole.transform(rows).toarray() / math.sqrt(len(parts))
            assert (found.dtype, found.format) == (np.float32, "csr")
            np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-7)
        assert ngrams.num_columns == found.shape[1]

    def test_terms(self, options):
        chosen = FeatureSettings(**options)
        ngrams, parts = Ngrams.fit(series(TRAIN), chosen), [part.fit(TRAIN) for part in oracle(chosen)]
        names = [name for name, used in (("words", chosen.word_ngrams), ("chars", chosen.char_ngrams)) if used]
        assert list(ngrams.terms) == list(ngrams.weights) == names
        for name, part in zip(names, parts, strict=True):
            assert ngrams.terms[name] == ([] if chosen.hashed else part.get_feature_names_out().tolist())

    def test_through_json_bit_for_bit(self, options):
        ngrams = Ngrams.fit(series(TRAIN), FeatureSettings(**options))
        weights = json.loads(json.dumps({name: values.tolist() for name, values in ngrams.weights.items()}))
        arrays = {name: np.asarray(values, dtype=np.float32) for name, values in weights.items()}
        again = Ngrams(ngrams.settings, json.loads(json.dumps(ngrams.terms)), arrays)
        one, other = (part.transform(series(NEW)) for part in (ngrams, again))
        assert (one != other).nnz == 0
        assert one.data.tobytes() == other.data.tobytes()

    def test_a_texts_values_do_not_depend_on_the_others(self, options):
        ngrams = Ngrams.fit(series(TRAIN), FeatureSettings(**options))
        together = ngrams.transform(series(TRAIN + NEW))
        for number, text in enumerate(TRAIN + NEW):
            assert (ngrams.transform(series([text])) != together[number]).nnz == 0

    def test_no_texts(self, options):
        ngrams = Ngrams.fit(series(TRAIN), FeatureSettings(**options))
        found = ngrams.transform(series([]))
        assert (found.shape, found.dtype, found.format) == ((0, ngrams.num_columns), np.float32, "csr")

    @pytest.mark.parametrize("texts", [[], [""], ["", "? !"], ["a b c"] * 3])
    def test_no_ngrams(self, options, texts):
        """A word has at least two letters; single letters between blanks have n-grams of characters."""
        chosen = FeatureSettings(**options | {"word_ngrams": options.get("word_ngrams", 2) or 1})
        with pytest.raises(DataError) as caught:
            Ngrams.fit(series(texts), chosen)
        where = f"in {chosen.min_documents} of {len(texts)} documents"
        assert str(caught.value).startswith(f"texts: no n-gram of words is {where} (")
        assert "smaller features.min_documents" in str(caught.value)


def test_written_out():
    """n = 3. idf(dog) = ln(4/3) + 1, idf(cat) = ln(4/2) + 1; three dogs count 1 + ln 3; then length 1."""
    ngrams = Ngrams.fit(series(["dog cat", "dog", "eel"]), FeatureSettings(word_ngrams=1, min_documents=1))
    assert ngrams.terms == {"words": ["cat", "dog", "eel"]}
    dog, cat = math.log(4 / 3) + 1, math.log(4 / 2) + 1
    assert ngrams.weights["words"].tolist() == pytest.approx([cat, dog, cat])
    raw = [cat, (1 + math.log(3)) * dog, 0]
    found = ngrams.transform(series(["dog Dog, cat DOG"])).toarray()[0]
    assert found.tolist() == pytest.approx([value / math.hypot(*raw) for value in raw])


def test_one_text_is_too_few_for_two_documents():
    with pytest.raises(DataError, match="no n-gram of words is in 2 of 1 documents"):
        Ngrams.fit(series(["some text"]), FeatureSettings())


def test_n_grams_below_the_shortest_are_none():
    for shortest in (0, 1, 2):
        ngrams = Ngrams.fit(series(TRAIN), FeatureSettings(char_ngrams=shortest))
        assert list(ngrams.terms) == ["words"]


@quick
@given(st.lists(st.text("ab cé", max_size=12), min_size=1, max_size=5), st.integers(0, 5), st.booleans())
def test_a_document_has_length_1_or_less(texts, char_ngrams, hashed):
    """1 if every analyzer has an n-gram, sqrt(1/2) if one of two has, and 0 if none has."""
    chosen = FeatureSettings(char_ngrams=char_ngrams, min_documents=1, hashed=hashed, max_features=64)
    ngrams = Ngrams.fit(series(["ab cé", "aab bba", *texts]), chosen)
    found = ngrams.transform(series(texts)).toarray()
    parts = np.split(found, np.cumsum([len(values) for values in ngrams.weights.values()])[:-1], axis=1)
    share = sum(part.any(1) for part in parts) / len(parts)
    np.testing.assert_allclose((found.astype(np.float64) ** 2).sum(1), share, atol=1e-6)


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
    monkeypatch.setattr(ngrams_module, "PENDING", request.param)
    monkeypatch.setattr(ngrams_module, "PARTITIONS", 3)
    monkeypatch.setattr("hyperfocal.data.partitions.PARTITIONS", 3)
    monkeypatch.setattr(ngrams_module, "MERGED", 2)
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
