import multiprocessing

import pytest

from command_cases import TINY, done, rows, write
from hyperfocal.private.folders import VARIABLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with train.jsonl, test.jsonl and run, fitted on the title and the body."""
    path = tmp_path_factory.mktemp("texts")
    write(path / "train.jsonl", rows())
    write(path / "test.jsonl", rows(40, seed=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(path / "cache"))
        texts = ("--text", "title", "--text", "body", "--features", "ngrams")
        done("classify", "fit", path / "train.jsonl", "--out", path / "run", *texts, *TINY)
    return path


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Keep features in a folder of the test, print 80 columns wide, and use one thread and no network."""
    for name, value in {VARIABLE: tmp_path / "cache", "COLUMNS": 80, "OMP_NUM_THREADS": 1, "HF_HUB_OFFLINE": 1}.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def forks(monkeypatch):
    """Fork workers from a process that has imported what they need: they are there at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "torch._dynamo", "hyperfocal.grid.search"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)


@pytest.fixture
def no_encoder(monkeypatch):
    """Let no sentence encoder be installed."""
    for place in ("hyperfocal.models.text_features.find_encoder", "hyperfocal.classify.grid.find_encoder"):
        monkeypatch.setattr(place, lambda name="": None)
