"""A log is prepared the same way in memory and streamed, and a recommender learns the same from both."""

import os
import resource

import polars as pl
import pytest
import torch

from hyperfocal import machine
from hyperfocal.config.recommend import DataSettings, ModelSettings, RecommendSettings
from hyperfocal.data.logs import as_log
from hyperfocal.data.synthetic_logs import make_challenges
from hyperfocal.errors import ConfigError, DataError, LeakError, RunError
from hyperfocal.recommend import prepare as streaming
from hyperfocal.recommend.prepare import prepare
from hyperfocal.recommend.recommender import Recommender

FAST = {"train.epochs": 2, "train.threads": 1, "model.embedding_width": 8}
SECONDS = {"train_seconds", "valid_seconds"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERFOCAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "logs"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return a log whose rows stand in no order; some items belong to a single user."""
    frame = make_challenges(users=150, challenges=60, seed=1).train.select("user_id", "challenge", "challenge_sequence")
    rare = pl.DataFrame({"user_id": [0, 1, 2], "challenge": ["x", "y", "z"], "challenge_sequence": [99, 99, 99]})
    found = tmp_path_factory.mktemp("log") / "log.csv"
    pl.concat([frame, rare.cast(frame.schema)]).sample(fraction=1, shuffle=True, seed=0).write_csv(found)
    return found


def settings(**data):
    return RecommendSettings(model=ModelSettings(name="mean"), data=DataSettings(**data))


STREAMED = settings(stream="on")


@pytest.mark.parametrize("given", [False, True], ids=["split", "validation file"])
def test_it_is_prepared_as_in_memory(path, tmp_path, given):
    valid = None
    if given:
        valid = tmp_path / "valid.csv"
        pl.read_csv(path).with_columns(pl.col("user_id") + 1000).head(400).write_csv(valid)
    items = None if given else make_challenges(users=2, challenges=60, seed=1).challenges.select("challenge", "series")
    found, expected = (prepare(path, valid, None, settings(stream=stream), items) for stream in ("on", "off"))
    assert found.fingerprint() == expected.fingerprint()
    assert found.train.items.dtype == torch.int32
    assert found.counts == expected.counts | {"streamed": True}
    for name in ("starts", "stops", "ends"):
        assert getattr(found.examples, name).equal(getattr(expected.examples, name))
    assert found.train_holdout.users.equals(expected.train_holdout.users)
    assert found.train_holdout.truth.indices.equal(expected.train_holdout.truth.indices)


@pytest.mark.parametrize("model", ["mean", "markov", "user_knn"])
def test_it_learns_the_same(path, tmp_path, model):
    found, expected = (
        Recommender(model=model, settings=FAST | {"data.stream": stream}).fit(path, out=tmp_path / stream)
        for stream in ("on", "off")
    )
    assert [_timeless(row) for row in found.history_] == [_timeless(row) for row in expected.history_]
    for name in ("popularity", "decayed_markov", "user_knn", model):
        assert found.metrics_["scores"][name] == expected.metrics_["scores"][name]
    assert found.metrics_["train"] == expected.metrics_["train"]
    assert "the log was streamed" in found.metrics_["not_compared"][0]
    log = as_log(path)
    loaded = Recommender.load(tmp_path / "on")
    assert loaded.predict(log).frame.equals(expected.predict(log).frame)
    with pytest.raises(RunError, match="fitted on a streamed log"):
        loaded.update(log)


def _timeless(row):
    return {name: value for name, value in row.items() if name not in SECONDS}


def test_a_second_run_reads_no_file_again(path, cache, monkeypatch):
    first = prepare(path, None, None, STREAMED)
    assert len(list(cache.iterdir())) == 2  # the log, and its training part
    monkeypatch.setattr(streaming, "stream_log", None)
    assert prepare(path, None, None, STREAMED).fingerprint() == first.fingerprint()


def test_a_file_that_changes_is_read_again(path, tmp_path):
    copy = tmp_path / "log.csv"
    copy.write_bytes(path.read_bytes())
    first = prepare(copy, None, None, STREAMED)
    state = copy.stat()
    copy.write_bytes(path.read_bytes().replace(b",x,", b",y,"))
    os.utime(copy, ns=(state.st_atime_ns, state.st_mtime_ns))  # size and time stay
    assert prepare(copy, None, None, STREAMED).fingerprint() != first.fingerprint()


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_a_build_that_is_cut_short_leaves_nothing(path, cache, monkeypatch, error):
    def cut_short(log, columns, work):
        (work / "half.bin").write_bytes(b"half")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(streaming, "stream_log", cut_short)
        with pytest.raises(error):
            prepare(path, None, None, STREAMED)
    assert list(cache.iterdir()) == []
    prepare(path, None, None, STREAMED)


def test_a_disk_without_room(path, cache):
    """As a full disk: no file may be larger than a kilobyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(RunError, match=r"cannot be written .* Free some space"):
            prepare(path, None, None, STREAMED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.iterdir()) == []


class TestWhen:
    def test_a_file_too_large_for_memory(self, path, monkeypatch):
        assert not prepare(path, None, None, settings()).streamed
        monkeypatch.setattr(machine, "MEMORY_SHARE", 1e-9)
        assert prepare(path, None, None, settings()).streamed
        assert not prepare(path, None, None, settings(stream="off")).streamed
        assert not prepare(path, None, None, settings(protocol="leave-one-out")).streamed  # which reads into memory
        assert not prepare(as_log(path), None, None, settings()).streamed

    @pytest.mark.parametrize("pattern", ["logs", "logs/*.parquet"])
    def test_parts_that_together_are_too_large(self, path, pattern, tmp_path, monkeypatch):
        frame = pl.read_csv(path, infer_schema=False)
        (tmp_path / "logs").mkdir()
        for number in range(2):
            half = frame.slice(number * len(frame) // 2, len(frame) // 2 if number == 0 else None)
            half.write_parquet(tmp_path / "logs" / f"part-{number}.parquet")
        parts = tmp_path / pattern
        assert not prepare(parts, None, None, settings()).streamed
        monkeypatch.setattr(machine, "MEMORY_SHARE", 1e-9)
        streamed = prepare(parts, None, None, settings())
        assert streamed.streamed
        whole = prepare(path, None, None, settings(stream="on"))
        assert streamed.vocabulary.ids.to_list() == whole.vocabulary.ids.to_list()
        assert streamed.counts["events"] == whole.counts["events"]

    @pytest.mark.parametrize(
        ("log", "wanted", "message"),
        [
            (pl.DataFrame(), settings(stream="on"), "for a log that is in memory"),
            ("log.csv", settings(stream="on", protocol="leave-one-out"), "with data.protocol = 'leave-one-out'"),
            (
                "log.csv",
                RecommendSettings(model=ModelSettings(name="ease"), data=DataSettings(stream="on")),
                "with model ease. Those that learn",
            ),
        ],
    )
    def test_what_is_not_possible_is_refused(self, log, wanted, message):
        with pytest.raises(ConfigError, match=rf"^data\.stream = 'on' is not allowed {message}"):
            prepare(log, None, None, wanted)

    def test_a_user_in_both_files(self, path):
        with pytest.raises(LeakError, match=r"log\.csv: \d+ of its \d+ users are in training too"):
            prepare(path, path, None, STREAMED)

    def test_no_such_file(self, tmp_path, cache):
        with pytest.raises(DataError, match="no such file"):
            prepare(tmp_path / "absent.csv", None, None, STREAMED)
