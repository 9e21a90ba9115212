"""A classifier that learns from streamed documents learns what it learns from documents in memory."""

import logging
import resource
from contextlib import contextmanager

import polars as pl
import pytest
import torch

from hyperfocal import machine
from hyperfocal.classify import streaming as streamed_texts
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.prepare import prepare
from hyperfocal.classify.streaming import read_streamed
from hyperfocal.config.classify import ClassifySettings, FeatureSettings, TextDataSettings, TextTrainSettings
from hyperfocal.data import examples as shuffling
from hyperfocal.data import ngrams as term_counts
from hyperfocal.data import stored_documents as stream_documents
from hyperfocal.data import stored_texts
from hyperfocal.data.documents import as_documents
from hyperfocal.data.stored_texts import StoredTexts, hash_texts
from hyperfocal.data.synthetic_documents import make_corpus, write_corpus
from hyperfocal.errors import ConfigError, LeakError, RunError
from hyperfocal.models.text_features import TextFeatures

FAST = {"features.kind": "ngrams", "train.epochs": 2, "train.threads": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERFOCAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stored_texts, "BLOCK_TEXTS", 50)
    monkeypatch.setattr(stream_documents, "BLOCK_ROWS", 70)
    monkeypatch.setattr(term_counts, "PENDING", 2_000)
    monkeypatch.setattr(shuffling, "BUFFER", 128)
    monkeypatch.setattr(shuffling, "STRETCH", 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("documents")
    write_corpus(make_corpus(1_000), place)
    return place


def fitted(path, stream, out=None, valid=None, **settings):
    chosen = FAST | {name.replace("__", "."): value for name, value in settings.items()} | {"data.stream": stream}
    return MultiLabelClassifier(settings=chosen).fit(path, out=out, valid=valid)


OPTIONS = [
    {},
    {"features__hashed": True, "features__max_features": 3_000, "head__name": "linear"},
    {"features__char_ngrams": 4, "data__valid_fraction": 0.3},
    {"data__taxonomy": "taxonomy.tsv", "data__add_parents": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["words", "hashed", "characters", "parents"])
def test_it_learns_the_same(folder, tmp_path, options):
    if "data__taxonomy" in options:
        options = options | {"data__taxonomy": str(folder / "taxonomy.tsv")}
    path = folder / "train.jsonl"
    found, expected = (fitted(path, stream, tmp_path / stream, **options) for stream in ("on", "off"))
    assert found.fingerprint_ == expected.fingerprint_
    for name, tensor in expected.head_.state_dict().items():
        assert torch.equal(found.head_.state_dict()[name], tensor), name
    assert str(found.metrics_) == str(expected.metrics_)  # some are nan
    assert found.decisions_.thresholds.equal(expected.decisions_.thresholds)
    for name in ("features.json", "labels.csv", "vocabulary.json"):
        assert (tmp_path / "on" / name).read_bytes() == (tmp_path / "off" / name).read_bytes()
    assert MultiLabelClassifier.load(tmp_path / "on").predict(["a text"]) == expected.predict(["a text"])


def test_it_learns_the_same_beside_validation_documents(folder):
    parts = folder / "train.jsonl", folder / "valid.jsonl"
    found, expected = (fitted(parts[0], stream, valid=parts[1]) for stream in ("on", "off"))
    assert str(found.metrics_) == str(expected.metrics_)
    with pytest.raises(LeakError, match="are in training too"):
        fitted(parts[0], "on", valid=parts[0])


def test_an_encoder_reads_them_block_by_block(folder, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_texts, "BLOCK_TEXTS", 15)
    settings, seen = FeatureSettings(kind="encoder"), []
    path = tmp_path / "few.jsonl"
    path.write_text("".join((folder / "valid.jsonl").read_text().splitlines(keepends=True)[:40]))
    stored, texts = read_streamed(path, TextDataSettings()).texts, as_documents(path).texts
    how = TextFeatures.fit(texts, settings)
    found = how.make(stored, cache, lambda *done: seen.append(done))
    torch.testing.assert_close(found.dense, how.make(texts).dense, atol=1e-5, rtol=1e-4)
    assert [done for done, _ in seen] == [15, 30, 40]
    assert {number for _, number in seen} == {len(texts)} == {40}
    seen.clear()
    assert how.make(stored, cache, lambda *done: seen.append(done)).dense.equal(found.dense)
    assert not seen


def test_a_second_run_reads_the_file_no_more(folder, monkeypatch, caplog):
    path = folder / "train.jsonl"
    with caplog.at_level(logging.INFO, "hyperfocal"):
        expected = fitted(path, "on")
    assert "streamed through mapped files" in caplog.text
    monkeypatch.setattr(streamed_texts, "stream_documents", None)
    assert fitted(path, "on").fingerprint_ == expected.fingerprint_


def test_equally_frequent_ngrams_are_cut_in_another_way_which_a_resumed_run_is_told(folder, tmp_path, monkeypatch):
    """Neither may read the other's n-grams from the cache, nor go on with its weights."""
    path, few = folder / "train.jsonl", {"features__max_features": 300}
    found, expected = (fitted(path, stream, tmp_path / stream, **few) for stream in ("on", "auto"))
    assert found.fingerprint_ == expected.fingerprint_
    terms = [set(each.features_.ngrams.terms["words"]) for each in (found, expected)]
    assert len(terms[0]) == len(terms[1]) == 300
    assert terms[0] != terms[1]
    (tmp_path / "auto" / "model.safetensors").unlink()
    monkeypatch.setattr(machine, "MEMORY_SHARE", 1e-9)
    settings = FAST | {"features.max_features": 300}
    with pytest.raises(RunError, match="other n-grams"):
        MultiLabelClassifier(settings=settings).fit(path, out=tmp_path / "auto", resume=True)


@contextmanager
def small_files(limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing(folder, cache, monkeypatch):
    with small_files(10_000), pytest.raises(RunError, match=r"cannot be written .* Free some space"):
        read_streamed(folder / "train.jsonl", TextDataSettings())
    texts = read_streamed(folder / "train.jsonl", TextDataSettings()).texts
    settings = FeatureSettings(kind="ngrams")
    with monkeypatch.context() as patched:
        patched.setattr("hyperfocal.data.partitions.PARTITIONS", 1)
        with small_files(2_000), pytest.raises(RunError, match=r"cannot be written .* Free some space"):
            TextFeatures.fit(texts, settings, cache)
    how = TextFeatures.fit(texts, settings, cache)
    with small_files(10_000), pytest.raises(RunError, match=r"cannot be written .* Free some space"):
        how.make(texts, cache)
    assert not list(cache.rglob(".building-*"))
    rows = how.make(texts, cache).sparse
    with small_files(0):  # nothing is written where all is there
        assert how.make(texts, cache).sparse.columns.equal(rows.columns)


def test_texts_are_read_once_for_all_their_checksums(folder, monkeypatch):
    texts = read_streamed(folder / "train.jsonl", TextDataSettings()).texts
    expected = hash_texts(as_documents(folder / "train.jsonl").texts)
    assert hash_texts(texts) == expected
    monkeypatch.setattr(stored_texts.StoredTexts, "_read", None)
    assert hash_texts(texts) == expected


def test_long_texts_stand_in_smaller_blocks(folder, monkeypatch):
    monkeypatch.setattr(stored_texts, "BLOCK_BYTES", 1_000)
    texts = read_streamed(folder / "train.jsonl", TextDataSettings()).texts
    blocks = list(texts.blocks())
    assert pl.concat(blocks).to_list() == as_documents(folder / "train.jsonl").texts.to_list()
    assert max(map(len, blocks)) < 50
    assert all(block[:-1].str.len_bytes().sum() < 1_000 for block in blocks)


class TestWhen:
    def streams(self, data, settings):
        return isinstance(prepare(data, None, settings).train.documents.texts, StoredTexts)

    def test_a_file_too_large_for_memory(self, folder, monkeypatch):
        path, settings = folder / "train.jsonl", ClassifySettings()
        assert not self.streams(path, settings)
        monkeypatch.setattr(machine, "MEMORY_SHARE", 1e-9)
        assert self.streams(path, settings)
        assert not self.streams(path, ClassifySettings(data=TextDataSettings(stream="off")))
        assert not self.streams(path, ClassifySettings(train=TextTrainSettings(folds=3)))  # needs them in memory
        assert not self.streams(as_documents(path), settings)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"train": TextTrainSettings(folds=3)}, r"with train\.folds, which needs"),
            ({"train": TextTrainSettings(refit=True)}, r"with train\.refit, which needs"),
            ({"features": FeatureSettings(kind="encoder", finetune=True)}, r"with features\.finetune, which needs"),
        ],
    )
    def test_what_is_not_possible_is_refused(self, folder, settings, message):
        wanted = ClassifySettings(data=TextDataSettings(stream="on"), **settings)
        with pytest.raises(ConfigError, match=rf"^data\.stream = 'on' is not allowed {message}"):
            prepare(folder / "train.jsonl", None, wanted)

    def test_texts_in_memory_are_refused(self):
        with pytest.raises(ConfigError, match="for documents that are in memory"):
            MultiLabelClassifier(settings={"data.stream": "on"}).fit(["a", "b"], [["x"], ["y"]])
