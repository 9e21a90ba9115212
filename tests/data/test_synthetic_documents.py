import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from hyperfocal.data import synthetic_documents as synthetic_texts
from hyperfocal.data.documents import as_documents
from hyperfocal.data.synthetic_documents import (
    Corpus,
    draw_zipf,
    make_corpus,
    make_words,
    write_corpus,
    write_sentences,
)
from hyperfocal.data.taxonomy import Taxonomy, read_taxonomy
from hyperfocal.errors import ConfigError

PARTS = ("train", "valid", "test")
TIERS = {1: 29, 2: 342, 3: 267, 4: 60}  # as in test_iab_2_2_has_698_topics_in_four_tiers
CHECKSUM = (
    "from hyperfocal.data.synthetic_documents import *; c = make_corpus(1_000, seed=4); print(c.test.write_ndjson())"
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus()


@pytest.fixture(scope="module")
def tree(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Taxonomy:
    write_corpus(corpus, tmp_path_factory.mktemp("corpus"))
    return read_taxonomy(tmp_path_factory.getbasetemp() / "corpus0" / "taxonomy.tsv")


def documents(corpus: Corpus) -> pl.DataFrame:
    return pl.concat([getattr(corpus, name) for name in PARTS])


def train_counts(corpus: Corpus) -> np.ndarray:
    """The training documents of each label, label "1" first."""
    counts = Counter(corpus.train["labels"].explode().to_list())
    return np.array([counts[label] for label in corpus.taxonomy["id"]])


def indicator(corpus: Corpus, frame: pl.DataFrame) -> np.ndarray:
    matrix = np.zeros((frame.height, corpus.taxonomy.height), dtype=np.int64)
    place = {label: number for number, label in enumerate(corpus.taxonomy["id"])}
    for row, labels in enumerate(frame["labels"].to_list()):
        matrix[row, [place[label] for label in labels]] = 1
    return matrix


# Shape


def test_columns_and_parts(corpus: Corpus) -> None:
    schema = {"id": pl.String, "text": pl.String, "labels": pl.List(pl.String)}
    assert [dict(getattr(corpus, name).schema) for name in PARTS] == [schema] * 3
    assert [getattr(corpus, name).height for name in PARTS] == [4_200, 900, 900]
    assert sorted(documents(corpus)["id"]) == [f"D{number:04}" for number in range(1, 6_001)]
    assert all(getattr(corpus, name)["id"].is_sorted() for name in PARTS)


def test_a_part_is_no_run_of_ids(corpus: Corpus) -> None:
    numbers = corpus.test["id"].str.slice(1).cast(pl.Int64)
    assert numbers.mean() == pytest.approx(3_000, abs=4 * 6_000 / np.sqrt(12 * 900))  # 4 standard errors


def test_one_to_five_distinct_labels_of_the_tree(corpus: Corpus) -> None:
    labels = documents(corpus)["labels"]
    assert labels.list.len().unique().sort().to_list() == [1, 2, 3, 4, 5]
    assert (labels.list.n_unique() == labels.list.len()).all()
    assert set(labels.explode()) == set(corpus.taxonomy["id"])


def test_texts_are_20_to_80_words_in_sentences(corpus: Corpus) -> None:
    texts = documents(corpus)["text"]
    lengths = texts.str.split(" ").list.len()
    assert (20 <= lengths.min() < 25, 70 < lengths.max() <= 80) == (True, True)  # type: ignore[operator]
    assert texts.str.contains(r"^([A-Z][a-z]*( [a-z]+)*\.( |$))+$").all()
    assert texts.is_unique().all()


def test_the_tree_has_the_tiers_of_the_iabs(corpus: Corpus, tree: Taxonomy) -> None:
    assert Counter(tree.tiers) == TIERS
    assert tree.ids == corpus.taxonomy["id"].to_list() == [str(number) for number in range(1, 699)]
    assert all(parent < number for number, parent in enumerate(tree.parents))  # parents come first
    assert [tree.resolve(name) for name in tree.names] == tree.ids  # names are distinct


def test_names_can_be_said(tree: Taxonomy) -> None:
    assert all(re.fullmatch(r"[A-Z][a-z]{5,12}( [A-Z][a-z]{3,9})?", name) for name in tree.names)


def test_children_are_uneven(tree: Taxonomy) -> None:
    children = Counter(tree.parents[number] for number, tier in enumerate(tree.tiers) if tier == 3)
    assert len(children) < 342 / 2  # most of tier 2 have none
    assert max(children.values()) > 4


# Labels


@pytest.mark.parametrize("seed", range(3))
def test_a_long_tail(seed: int) -> None:
    counts = train_counts(make_corpus(seed=seed))
    assert counts.min() >= 1
    assert 300 < counts.max() < 700
    assert (counts >= 200).sum() >= 4
    assert 50 < ((counts >= 20) & (counts < 200)).sum() < 120
    assert ((counts >= 5) & (counts <= 10)).sum() > 698 * 0.4
    assert 50 < (counts <= 4).sum() < 698 * 0.3


def test_labels_are_mostly_deep(corpus: Corpus, tree: Taxonomy) -> None:
    tiers = dict(zip(tree.ids, tree.tiers, strict=True))
    first = [tiers[labels[0]] for labels in corpus.train["labels"].to_list()]
    assert np.mean(np.array(first) >= 2) > 0.95


def test_labels_after_the_first_are_often_siblings_or_companions(corpus: Corpus, tree: Taxonomy) -> None:
    parents = dict(zip(tree.ids, tree.parents, strict=True))
    pairs = [(row[0], other) for row in documents(corpus)["labels"].to_list() for other in row[1:]]
    siblings = np.mean([parents[one] == parents[other] for one, other in pairs])
    assert 0.25 < siblings < 0.5
    strangers = Counter(pair for pair in pairs if parents[pair[0]] != parents[pair[1]])
    mains, frequent = Counter(one for one, _ in pairs), train_counts(corpus).argsort()[-10:]
    for main in (tree.ids[number] for number in frequent):
        top = max(count for (one, _), count in strangers.items() if one == main)
        assert top > 0.1 * mains[main]  # by frequency alone, 0.2 * 0.06 or less


def test_a_label_is_missing_now_and_then(monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> None:
    monkeypatch.setattr(synthetic_texts, "MISSED", 0.0)
    whole = documents(make_corpus()).sort("id")
    given = documents(corpus).sort("id")
    assert sorted(whole["text"]) == sorted(given["text"])
    extra = [frame["labels"].list.len().sum() - 6_000 for frame in (given, whole)]
    assert extra[0] / extra[1] == pytest.approx(1 - 0.08, abs=0.01)


# Determinism and files


def test_same_seed_same_corpus(corpus: Corpus) -> None:
    again, other = make_corpus(), make_corpus(seed=1)
    for name in (*PARTS, "taxonomy"):
        assert getattr(corpus, name).equals(getattr(again, name)), name
        assert not getattr(corpus, name).equals(getattr(other, name)), name


def test_another_process_makes_the_same() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", CHECKSUM], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == make_corpus(1_000, seed=4).test.write_ndjson() + "\n"


def test_files_read_back_as_the_frames(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_corpus(corpus, folder)
    write_corpus(corpus, folder)  # replaces
    assert sorted(path.name for path in folder.iterdir()) == [
        "taxonomy.tsv",
        "test.jsonl",
        "train.jsonl",
        "valid.jsonl",
    ]
    for name in PARTS:
        read, frame = as_documents(folder / f"{name}.jsonl"), getattr(corpus, name)
        assert (read.ids.equals(frame["id"]), read.texts.equals(frame["text"])) == (True, True)
        assert read.labels.to_list() == frame["labels"].to_list()
    taxonomy = pl.read_csv(folder / "taxonomy.tsv", separator="\t", infer_schema=False)
    assert taxonomy.equals(corpus.taxonomy)


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(_: pl.DataFrame, path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left")

    (tmp_path / "train.jsonl").write_text("old")
    monkeypatch.setattr(synthetic_texts, "write_frame", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        write_corpus(corpus, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("train.jsonl", "old")]


# Difficulty


@pytest.mark.parametrize("seed", range(2))
def test_frequent_labels_are_easier(seed: int) -> None:
    """A linear model ranks head labels well and tail labels badly, but far better than chance."""
    corpus = make_corpus(seed=seed)
    ngrams = TfidfVectorizer(sublinear_tf=True, min_df=2)
    train, valid = ngrams.fit_transform(corpus.train["text"]), ngrams.transform(corpus.valid["text"])
    known, truth, counts = indicator(corpus, corpus.train), indicator(corpus, corpus.valid), train_counts(corpus)

    def mean_ap(labels: np.ndarray) -> float:
        some = np.flatnonzero(labels & truth.any(axis=0))[:60]  # the order of labels does not depend on their frequency
        scores = [LinearSVC().fit(train, known[:, label]).decision_function(valid) for label in some]
        return float(
            np.mean([average_precision_score(truth[:, at], one) for at, one in zip(some, scores, strict=True)])
        )

    head, medium, tail = (mean_ap(part) for part in (counts >= 200, (counts >= 20) & (counts < 200), counts < 20))
    assert 0.95 > head > medium + 0.05 > tail + 0.1
    assert tail > 0.3  # by chance, some 0.01


# Edges and errors


def test_the_smallest_corpus_trains_every_label() -> None:
    corpus = make_corpus(1_000, seed=3)
    assert [getattr(corpus, name).height for name in PARTS] == [700, 150, 150]
    assert train_counts(corpus).min() >= 1


@pytest.mark.parametrize(
    ("argument", "value", "allowed"), [("documents", 999, "at least 1,000"), ("seed", -1, "at least 0")]
)
def test_bad_argument(argument: str, value: int, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"{argument} is {value}. Allowed: {allowed}. Choose a larger number"):
        make_corpus(**{argument: value})


@pytest.mark.parametrize(("syllables", "count"), [(1, 300), (2, 9_000), (3, 698)])
def test_words_are_distinct_and_have_so_many_syllables(syllables: int, count: int) -> None:
    words = make_words(count, syllables, np.random.default_rng(0))
    assert len(words) == len(set(words)) == count
    assert {sum(word.count(vowel) for vowel in "aeiou") for word in words} == {syllables}


def test_every_word_of_one_syllable() -> None:
    assert len(make_words(540, 1, np.random.default_rng(0))) == 540


def test_sentences() -> None:
    vocabulary = [f"w{chr(97 + number)}" for number in range(5)]
    words, lengths = np.arange(3_000) % 5, np.array([1, 2_000, 999])
    texts = write_sentences(vocabulary, words, lengths, np.random.default_rng(0))
    assert [len(text.split()) for text in texts] == [1, 2_000, 999]
    assert texts[0] == "Wa."
    assert " ".join(texts).lower().replace(".", "").split() == [vocabulary[word] for word in words]
    sentences = " ".join(texts).rstrip(".").split(". ")
    assert all(sentence[0] == "W" and "W" not in sentence[1:] for sentence in sentences)
    assert {5, 11, 17} < {len(sentence.split()) for sentence in sentences[1:]} < set(range(5, 17 + 2 * 5))


def test_zipf() -> None:
    shares = np.bincount(draw_zipf(3, 60_000, np.random.default_rng(0)), minlength=3) / 60_000
    whole = 1 + 1 / 2 + 1 / 3
    assert shares == pytest.approx([1 / whole, 1 / 2 / whole, 1 / 3 / whole], abs=0.01)
