from dataclasses import replace

import pytest
import torch

from grid_cases import documents, failing, gammas, points, settings
from hyperfocal.classify.grid import prepare_grid
from hyperfocal.classify.prepare import prepare
from hyperfocal.errors import ConfigError, DataError, TrainingError
from hyperfocal.grid.points import Point


def prepared(cache, *, train=None, valid=None, base=None, grid=None):
    grid = gammas(None) if grid is None else grid
    base = base or settings()
    return prepare_grid(prepare(train or documents(), valid, base), grid, base, cache=cache, threads=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def material(cache):
    return prepared(cache)


def test_a_point_says_every_metric_and_resamples_of_the_main_ones(material):
    values, resamples = material.train(points(1)[0])
    assert {"macro_ap", "micro_ap", "ndcg@5", "half.macro_f1", "tuned.macro_f1", "tuned.micro_f1"} <= values.keys()
    assert resamples.keys() <= values.keys()
    assert {"macro_ap", "half.macro_f1", "tuned.macro_f1"} <= resamples.keys()
    assert len({resampled.shape for resampled in resamples.values()}) == 1


def test_training_again_gives_the_same_and_another_seed_another(material):
    first, again, other = (material.train(Point("p", seed, settings(seed=seed)))[0] for seed in (0, 0, 1))
    assert first == pytest.approx(again, abs=0, rel=0, nan_ok=True)
    assert first["macro_ap"] != other["macro_ap"]


def test_a_failed_training_raises(material):
    with pytest.raises(TrainingError, match="the loss is inf"):
        material.train(failing())


def test_the_seed_of_a_point_does_not_split(material):
    """All points are compared on the same documents: those that the base settings' seed holds out."""
    ids = material.data.valid.documents.ids.to_list()
    assert ids == prepared(material.cache, grid=gammas(None, seeds=3)).data.valid.documents.ids.to_list()
    assert ids != prepared(material.cache, base=settings(seed=1)).data.valid.documents.ids.to_list()


def test_features_are_computed_before_the_first_point(tmp_path):
    grid = [Point("words", 0, settings()), Point("pairs", 0, settings(features__word_ngrams=2))]
    found = prepared(tmp_path, grid=grid)
    before = sorted(path.name for path in tmp_path.iterdir())
    for point in grid:
        found.train(point)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(before) >= 4  # of training and of validation documents, for each


def test_threads_of_a_training(material):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        material.train(points(1)[0])
        assert torch.get_num_threads() == material.threads == 1
    finally:
        torch.set_num_threads(before)


def test_the_fingerprint_is_of_the_documents_and_their_split(material, tmp_path):
    known = material.fingerprint()
    assert prepared(tmp_path, base=settings(train__epochs=5)).fingerprint() == known  # settings are in the keys
    assert replace(material, cache=tmp_path, threads=2).fingerprint() == known
    others = [
        prepared(tmp_path, base=settings(seed=1)),
        prepared(tmp_path, train=documents(59)),
        prepared(tmp_path, train=documents(seed=1)),
        prepared(tmp_path, valid=documents(20, seed=1)),
        replace(material, encoder="another"),
    ]
    assert len({known, *(other.fingerprint() for other in others)}) == 1 + len(others)


def test_given_validation_documents_are_used(tmp_path):
    found = prepared(tmp_path, valid=documents(20, seed=1))
    assert found.data.valid.documents.ids.to_list() == documents(20, seed=1).ids.to_list()
    assert len(found.data.train) == 60


def test_what_cannot_be_prepared(tmp_path):
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        prepared(tmp_path, train=tmp_path / "missing.jsonl")
    grid = [Point("encoder", 0, settings(features__kind="encoder", features__encoder=str(tmp_path / "none")))]
    with pytest.raises(ConfigError, match="none"):
        prepared(tmp_path, grid=grid)


def test_the_fingerprint_covers_a_file_of_label_texts(tmp_path):
    table = tmp_path / "names.csv"
    table.write_text("label,name\nsport,games\n")
    plain = prepared(tmp_path / "cache")
    grid = [Point("names", 0, settings(features__label_texts=str(table)))]
    before = prepared(tmp_path / "cache", grid=grid).fingerprint()
    assert before == prepared(tmp_path / "cache", grid=grid).fingerprint() != plain.fingerprint()
    table.write_text("label,name\nsport,matches\n")
    assert prepared(tmp_path / "cache", grid=grid).fingerprint() != before
