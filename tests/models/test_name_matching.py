"""The words of label names in texts: stems, shares of names, and how much memory a match needs."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy import sparse

from hyperfocal.models import name_matching
from hyperfocal.models.name_matching import NameMatcher, name_stems, stem

NAMES = ["red wine", "white wine", "dark beer"]


def shares(names, *texts):
    return NameMatcher.of(names).match([texts]).toarray()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("wines", "win"), ("Wine", "win"), ("wine", "win"), ("berries", "berr"), ("berry", "berr"), ("fried", "fri"),
        ("toppings", "topp"), ("topping", "topp"), ("gas", "gas"), ("as", "as"), ("C", "c"), ("2024", "2024"),
        ("straße", "straß"), ("\u0416\u0423\u041a\u0418", "\u0436\u0443\u043a\u0438"),
    ],
)  # fmt: skip
def test_a_stem_has_three_letters_at_least(word, expected):
    assert stem(word) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("role::app-data", ["rol", "app", "data"]), ("foodSafety", ["foodsafet"]), ("wine wines WINE", ["win"]),
        ("", []), ("::--__", []), ("İstanbul", name_stems("i̇stanbul")), ("C++", ["c"]), ("a/b", ["a", "b"]),
    ],
)  # fmt: skip
def test_stems_of_a_name(name, expected):
    assert name_stems(name) == expected


def test_a_share_weighs_stems_by_the_labels_that_lack_them():
    wine, other = math.log(4 / 2), math.log(4 / 1)  # of 3 labels, 2 have "wine" in their name
    expected = [
        [other / (other + wine), 0, 0],
        [wine / (other + wine), wine / (other + wine), 0],
        [1, wine / (other + wine), 0],
        [0, 0, 1],
        [0, 0, 0],
    ]
    found = shares(NAMES, "a RED dress", "wines, wine and Wine!", "red/wine", "beers that darken? dark", "redwine")
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_match_is_the_sum_over_the_stems_of_a_text_and_blocks_do_not_matter():
    rng = np.random.default_rng(0)
    words = [f"w{number}x" for number in range(30)]
    names = [" ".join(rng.choice(words, size=rng.integers(1, 5))) for _ in range(40)]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(50)]
    common = Counter(word for name in names for word in set(name.split()))
    idf = {word: math.log(41 / number) for word, number in common.items()}
    expected = [
        [
            sum(idf[w] for w in set(name.split()) & set(text.split())) / sum(idf[w] for w in set(name.split()))
            for name in names
        ]
        for text in texts
    ]
    matcher = NameMatcher.of(names)
    np.testing.assert_allclose(matcher.match([texts]).toarray(), expected, atol=1e-6)
    np.testing.assert_allclose(matcher.match([texts[:1], [], texts[1:]]).toarray(), expected, atol=1e-6)


@pytest.mark.parametrize("names", [["", "::"], ["wine", ""]])
def test_names_without_words_and_texts_without_matches_are_zeros(names):
    matcher = NameMatcher.of(names)
    assert matcher.match([["", "no such word", "::"]]).nnz == 0
    assert matcher.match([]).shape == (0, 2)
    assert matcher.match([["a"], ["b", "c"]]).shape == (3, 2)


def test_postings_are_the_columns_of_the_shares():
    matcher = NameMatcher.of(NAMES)
    dense = np.zeros((len(matcher.columns), 3), np.float32)
    for name, pairs in matcher.postings().items():
        for label, share in pairs:
            dense[matcher.columns[name], label] = share
    np.testing.assert_array_equal(dense, matcher.shares.toarray())
    np.testing.assert_allclose(dense.sum(0), 1, atol=1e-6)


def test_matching_words_are_those_of_the_text():
    matcher = NameMatcher.of(NAMES)
    assert matcher.matching_words("WINES of a red and redder kind; wine, Red", 0) == ["wines", "red", "wine"]
    assert matcher.matching_words("WINES of a red and redder kind", 2) == []
    assert NameMatcher.of([""]).matching_words("a", 0) == []


def test_the_words_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(name_matching, "MOST_SEEN", 3)
    seen = {}
    matcher = NameMatcher.of(NAMES)
    found = matcher._occurrences([f"word{number} red wine" for number in range(20)], seen)
    assert len(seen) <= 6  # of the last text, and those before it
    assert found.nnz == 40


def test_many_labels_and_texts_stay_sparse(monkeypatch):
    """10,000 labels x 20,000 texts: as many entries as texts have words of names, and no dense array of pairs."""
    labels, texts = 10_000, 20_000

    def refuse(*_, **__):
        raise AssertionError("a dense array of all pairs")

    matcher = NameMatcher.of([f"topic{number}" for number in range(labels)])
    for kind in (sparse.csr_matrix, sparse.coo_matrix, sparse.csc_matrix):
        monkeypatch.setattr(kind, "toarray", refuse)
        monkeypatch.setattr(kind, "todense", refuse)
    rows = [f"about topic{number % labels} and topic{number % 7}" for number in range(texts)]
    found = matcher.match(rows[start : start + 4_096] for start in range(0, texts, 4_096))
    assert found.shape == (texts, labels)
    once = sum(number % labels == number % 7 for number in range(texts))
    assert found.nnz == 2 * texts - once
    assert matcher.shares.nnz == labels


def test_a_stem_of_most_names_is_left_out():
    """It would store a share for each text and label: here 120 x 3, of which each is 1 / 120 of a name or less."""
    names = [f"Products > thing{number}" for number in range(120)]
    shares = NameMatcher.of(names).match([["our products", "thing7 of our products", "none"]])
    assert shares.nnz == 1
    assert shares[1, 7] == 1
    assert NameMatcher.of(names[:99]).match([["our products"]]).nnz == 99  # among few names it costs nothing
