"""Which texts the features know a part of."""

import polars as pl
import pytest
import torch

from hyperfocal.config.classify import FeatureSettings
from hyperfocal.models.text_features import TextFeatures, known_texts
from hyperfocal.models.text_head import Features

TRAIN = pl.Series("text", ["red wine", "white wine", "red apple"] * 2)
ASKED = ["a wine", "red", "Winery", "zebra", "redx", "42", "!?", "", " \n\t", "x", "ред", "🍷"]


def known(texts, **settings):
    texts = pl.Series("text", texts, dtype=pl.String)
    features = TextFeatures.fit(TRAIN, FeatureSettings(kind="ngrams", **settings))
    return dict(zip(texts, known_texts(texts, features.make(texts)).tolist(), strict=True))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"a wine", "red"}),
        ({"word_ngrams": 0, "char_ngrams": 3}, {"a wine", "red", "Winery", "redx"}),
        ({"char_ngrams": 3}, {"a wine", "red", "Winery", "redx"}),
        ({"hashed": True}, {"a wine", "red", "Winery", "zebra", "redx", "42", "ред"}),  # words of 2 characters or more
        ({"hashed": True, "char_ngrams": 3}, set(ASKED) - {"", " \n\t"}),
    ],
)
def test_of_ngrams_one_is_a_feature(settings, expected):
    assert {text for text, is_known in known(ASKED, **settings).items() if is_known} == expected


WORDS = {"a wine", "red", "Winery", "zebra", "redx", "42", "x", "ред"}


@pytest.mark.parametrize("sparse", [False, True])
def test_an_encoder_knows_every_word(sparse):
    """With n-grams of characters, "!?" is known where training had it."""
    texts = pl.Series("text", ASKED)
    rows = None
    if sparse:
        settings = FeatureSettings(kind="ngrams", word_ngrams=0, char_ngrams=3, min_documents=1)
        rows = TextFeatures.fit(pl.Series("text", ["red wine", "!?"]), settings).make(texts).sparse
    found = known_texts(texts, Features(rows, torch.zeros(len(texts), 2))).tolist()
    assert {text for text, is_known in zip(ASKED, found, strict=True) if is_known} == WORDS | (
        {"!?"} if sparse else set()
    )


def test_no_text_at_all():
    assert known([]) == {}
