"""Opinions about pairs of documents and labels: their values, and the same ones through every method."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.nn.functional import normalize

from hyperfocal.classify import opinions as opinions_file
from hyperfocal.classify.label_texts import LabelTexts
from hyperfocal.classify.opinions import LabelReader, Shares, Similarities, select
from hyperfocal.config.classify import FeatureSettings
from hyperfocal.data import stored_texts
from hyperfocal.data.stored_texts import StoredTexts
from hyperfocal.models.sentence_encoder import find_encoder
from hyperfocal.models.text_features import TextFeatures

TEXTS = LabelTexts(("red wine", "beer", ""), ("", "brewed", ""))
WORDS = TextFeatures(FeatureSettings(kind="ngrams"), None, None)  # no encoder
DOCUMENTS = pl.Series(["Wine\nred beer", "", "beer\n\nwine"])
WINE, RED = math.log(4 / 1), math.log(4 / 1)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shares():
    dense = draw(7, 5).relu()
    return Shares(csr_matrix(dense.numpy())), dense


def similarities(number=7, labels=5):
    documents, vectors, means = normalize(draw(number, 3)), normalize(draw(labels, 3, seed=1)), draw(labels, seed=2)
    dense = torch.tensor([[10 * (float(d @ v) - float(m)) for v, m in zip(vectors, means)] for d in documents])  # noqa: B905
    return Similarities(documents, vectors, means), dense


EACH = pytest.mark.parametrize(("opinion", "dense"), [shares(), similarities()], ids=["shares", "similarities"])


def test_values_of_text_and_first_line():
    found = LabelReader.fit(TEXTS, WORDS, None).of(DOCUMENTS, None)
    assert found.keys() == {"text", "first_line"}
    zeros = [torch.zeros(3, 3), torch.zeros(3, 3)]
    for opinion, scores in zip(found.values(), zeros, strict=True):
        opinion.add_to(scores, 1.0)
    part = WINE / (WINE + RED)
    torch.testing.assert_close(zeros[0], torch.tensor([[1, 1, 0], [0, 0, 0], [part, 1, 0]]))
    torch.testing.assert_close(zeros[1], torch.tensor([[part, 0, 0], [0, 0, 0], [0, 1, 0]]))


def test_similarity_is_a_cosine_above_its_mean():
    """Two documents along the axes; a label along the first axis has the cosines 1 and 0, mean 1/2."""
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    dense = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    reader = LabelReader(TEXTS, LabelReader.fit(TEXTS, WORDS, None).matcher, vectors, opinions_file._center(dense))
    opinion = reader.of(pl.Series(["a", "b"]), dense, ["similarity"])["similarity"]
    scores = torch.zeros(2, 2)
    opinion.add_to(scores, 1.0)
    torch.testing.assert_close(scores, torch.tensor([[10 * 0.5, 10 * (0.6 - 0.7)], [10 * -0.5, 10 * (0.8 - 0.7)]]))


def test_only_the_opinions_that_are_asked_for():
    reader = LabelReader.fit(TEXTS, WORDS, None)
    assert [*reader.of(DOCUMENTS, None, ["first_line"])] == ["first_line"]
    assert reader.of(DOCUMENTS, None, []) == {}
    assert [*reader.of(DOCUMENTS, None, ["similarity"])] == []  # no encoder


@EACH
def test_every_method_gives_the_same_values(opinion, dense):
    rows, labels = torch.arange(7).repeat_interleave(5), torch.arange(5).repeat(7)
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))[:20]
    torch.testing.assert_close(opinion.at(rows, labels).reshape(7, 5), dense.double(), check_dtype=True)
    torch.testing.assert_close(opinion.at(rows[order], labels[order]), dense[rows[order], labels[order]].double())
    some = torch.tensor([6, 0, 0, 3])
    scores = draw(4, 5, seed=3)
    expected = scores + 0.5 * dense[some]
    opinion.select(some).add_to(scores, 0.5)
    torch.testing.assert_close(scores, expected)
    assert opinion.at(rows[:0], labels[:0]).shape == (0,)
    assert select({"x": opinion}, some)["x"].at(torch.tensor([1]), torch.tensor([4])).item() == pytest.approx(
        dense[0, 4].item()
    )


@EACH
def test_blocks_do_not_matter(opinion, dense, monkeypatch):
    monkeypatch.setattr(opinions_file, "BLOCK", 2)
    scores = torch.zeros(7, 5)
    opinion.add_to(scores, -2.0)
    torch.testing.assert_close(scores, -2 * dense)
    rows, labels = torch.tensor([5, 1, 5]), torch.tensor([0, 4, 2])
    torch.testing.assert_close(opinion.at(rows, labels), dense[rows, labels].double())


def test_an_opinion_about_nothing():
    empty = Shares(csr_matrix((3, 2), dtype="float32"))
    assert empty.at(torch.tensor([0, 2]), torch.tensor([1, 0])).tolist() == [0, 0]
    scores = torch.ones(3, 2)
    empty.add_to(scores, 4.0)
    assert scores.unique().tolist() == [1]
    none = LabelReader.fit(LabelTexts(("", "::"), ("red", "")), None, None).of(DOCUMENTS, None)
    assert none["text"].at(torch.tensor([0]), torch.tensor([1])).tolist() == [0]


def test_the_last_pair_of_a_large_matrix():
    """Pairs are numbered in 64 bits: 3,000,000 labels x 2,000 documents."""
    labels, rows = 3_000_000, 2_000
    opinion = Shares(csr_matrix(([0.25], ([rows - 1], [labels - 1])), shape=(rows, labels), dtype="float32"))
    pairs = torch.tensor([rows - 1, rows - 1, 0]), torch.tensor([labels - 1, labels - 2, labels - 1])
    assert opinion.at(*pairs).tolist() == [0.25, 0, 0]


def test_stored_texts_get_the_same_opinions(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_texts, "BLOCK_TEXTS", 2)
    parts = [text.encode() for text in DOCUMENTS]
    (tmp_path / "texts").write_bytes(b"".join(parts))
    lengths = np.array([len(part) for part in parts])
    raw = np.memmap(tmp_path / "texts", mode="r")
    stored = StoredTexts(raw, lengths.cumsum() - lengths, lengths, np.arange(3, dtype=np.uint64))
    reader = LabelReader.fit(TEXTS, WORDS, None)
    for one, other in zip(reader.of(DOCUMENTS, None).values(), reader.of(stored, None).values(), strict=True):
        assert (one.matrix != other.matrix).nnz == 0


@pytest.mark.skipif(find_encoder() is None, reason="no sentence encoder is installed")
def test_an_encoder_reads_names_and_descriptions(tmp_path):
    features = TextFeatures.fit(pl.Series(["a"]), FeatureSettings(kind="encoder"))
    texts = LabelTexts(("fermented::grape-juice", "motor car"), ("", "It has four wheels."))
    documents = pl.Series(["a glass of wine", "She drives to work.", ""])
    dense = features.make(documents).dense
    reader = LabelReader.fit(texts, features, dense, tmp_path)
    expected = normalize(features.make(pl.Series(["fermented grape juice", "motor car. It has four wheels."])).dense)
    torch.testing.assert_close(reader.vectors, expected)
    torch.testing.assert_close(reader.center, normalize(dense).mean(0))
    means = (normalize(dense) @ expected.T).mean(0)
    torch.testing.assert_close(reader.vectors @ reader.center, means)
    scores = torch.zeros(3, 2)
    reader.of(documents, dense)["similarity"].add_to(scores, 1.0)
    assert scores[:2].argmax(1).tolist() == [0, 1]
    again = LabelReader.fit(texts, features, dense, tmp_path)  # from the cache
    torch.testing.assert_close(again.vectors, reader.vectors, atol=0, rtol=0)
