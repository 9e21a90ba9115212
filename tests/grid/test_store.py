import errno
import math
import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperfocal.config.classify import ClassifySettings, HeadSettings, TextTrainSettings
from hyperfocal.errors import RunError
from hyperfocal.grid import claims, database
from hyperfocal.grid.claims import SILENT_SECONDS, beating
from hyperfocal.grid.database import Database
from hyperfocal.grid.points import Point
from hyperfocal.grid.store import Store, outcomes

BASE = ClassifySettings()
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["hyperfocal.grid.store", "pytest"])


def point(number: int, seed: int = 0) -> Point:
    return Point(f"p{number}", seed, ClassifySettings(seed=seed, head=HeadSettings(width=number + 1)))


def values(number: int) -> dict[str, float]:
    return {"macro_ap": number / 7, "tail_ap": math.nan}


def resamples(number: int) -> dict[str, torch.Tensor]:
    return {"macro_ap": torch.arange(1000, dtype=torch.float32) * number, "tail_ap": torch.full((1000,), math.nan)}


def put(store: Store, number: int, seed: int = 0) -> None:
    store.put(point(number, seed), values(number), resamples(number), seconds=1.5)


def opened(path: Path, **changes: object) -> Store:
    return Store.open(path, **({"fingerprint": "data", "settings": BASE} | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "grid" / "grid.sqlite"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a store with 20 results."""
    path = tmp_path_factory.mktemp("filled") / "grid.sqlite"
    store = opened(path)
    for number in range(20):
        put(store, number)
    return path.read_bytes()


@pytest.fixture
def filled(path, content):
    """The path of a store with 20 results."""
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


# Round trips


def test_a_result_round_trips(path):
    store = opened(path)
    put(store, 3, seed=2)
    (found,) = opened(path).results()
    assert (found.key, found.name, found.seed, found.error, found.seconds) == (
        point(3, 2).key("data"),
        "p3",
        2,
        "",
        1.5,
    )
    assert found.settings == point(3, 2).settings
    assert found.values["macro_ap"] == 3 / 7
    assert math.isnan(found.values["tail_ap"])
    assert torch.equal(found.resamples["macro_ap"], resamples(3)["macro_ap"])
    assert found.started < found.finished
    assert found.done
    assert store.done() == {found.key}


def test_one_file_and_nothing_beside_it(filled):
    assert names(filled) == ["grid.sqlite"]


def test_a_folder_with_any_name(tmp_path):
    path = tmp_path / "Ж 100% #1?x=y" / "grid.sqlite"
    put(opened(path), 1)
    assert len(opened(path).done()) == 1


def test_resamples_may_be_views_and_share_memory(path):
    table = torch.arange(6.0).reshape(3, 2)
    store = opened(path)
    store.put(point(0), {}, {"a": table[:, 0], "b": table[:, 1]}, seconds=0)
    assert store.results()[0].resamples["b"].tolist() == [1, 3, 5]


@pytest.mark.parametrize("error", ["", "Ж\nline", "a\0b", "name \udcff"])
def test_any_error_round_trips(path, error):
    store = opened(path)
    store.fail(point(1), error)
    assert opened(path).results()[0].error == (error.replace("\udcff", "\\udcff") or "unknown error")


def test_numbers_of_any_kind_round_trip(path):
    store = opened(path)
    store.put(point(0), {"one": 1, "numpy": np.float64(0.1), "single": np.float32(0.5), "inf": math.inf}, {}, seconds=3)
    (found,) = opened(path).results()
    assert (found.values["one"], found.values["numpy"], found.values["single"], found.seconds) == (1, 0.1, 0.5, 3)
    assert math.isnan(found.values["inf"])


def test_outcomes_by_point(path):
    store = opened(path)
    for number, seed in ((1, 0), (2, 0), (1, 1)):
        put(store, number, seed)
    store.fail(point(3), "boom")
    found = outcomes(store.results())
    assert {name: [each.seed for each in list_] for name, list_ in found.items()} == {"p1": [0, 1], "p2": [0]}
    assert found["p1"][0].resamples["macro_ap"][2] == 2


def test_what_is_done_stays(path):
    store = opened(path)
    put(store, 1)
    store.put(point(1), {"macro_ap": 9.0}, {}, seconds=0)
    store.fail(point(1), "too late")
    assert [(each.values["macro_ap"], each.error) for each in store.results()] == [(1 / 7, "")]


def test_a_failed_point_is_tried_again_only_when_asked(path):
    store = opened(path)
    assert store.claim(point(1))
    store.fail(point(1), "loss is nan", seconds=2)
    assert store.failed() == {point(1).key("data"): "loss is nan"}
    assert (store.done(), store.results()[0].done) == (set(), False)
    assert not store.claim(point(1))
    assert store.claim(point(1), retry=True)
    assert not store.claim(point(1), retry=True)  # it is being tried
    put(store, 1)
    assert (len(store.done()), store.failed()) == (1, {})
    assert not store.claim(point(1), retry=True)


# Claims


def claim_in_child(path: Path, pipe) -> None:
    pipe.send(opened(path).claim(point(0)))
    pipe.recv()


def hold(path: Path):
    ours, theirs = PROCESSES.Pipe()
    child = PROCESSES.Process(target=claim_in_child, args=(path, theirs))
    child.start()
    assert ours.recv() is True
    return child, ours


def test_a_claim_ends_with_its_process(path):
    store = opened(path)
    child, _ = hold(path)
    assert not store.claim(point(0))
    assert store.claim(point(1))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert store.claim(point(0))
    assert not store.claim(point(0))


def test_a_claim_given_back(path):
    store = opened(path)
    assert store.claim(point(0))
    store.release(point(0))
    assert store.claim(point(0))


def test_a_claim_of_another_process_is_not_given_back(path):
    store = opened(path)
    child, _ = hold(path)
    store.release(point(0))
    store.drop_own()
    assert not store.claim(point(0))
    child.kill()
    child.join()


def test_what_could_not_be_given_back_is_dropped(path):
    store = opened(path)
    assert store.claim(point(0))
    store.drop_own()
    assert store.claim(point(0))


def test_a_point_that_is_tried_again_has_not_failed(path):
    store = opened(path)
    store.claim(point(0))
    store.fail(point(0), "broke")
    assert store.claim(point(0), retry=True)
    assert store.failed() == {}


def changed_claim(path: Path, **columns: object) -> bool:
    """Claim, change the claim, and return whether it can be taken over."""
    store = opened(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM claims")
    assert store.claim(point(0))
    with closing(sqlite3.connect(path)) as db, db:
        for column, value in columns.items():
            db.execute(f"UPDATE claims SET {column} = ?", (value,))
    return store.claim(point(0))


def test_claims_of_others(path):
    assert not changed_claim(path)
    assert not changed_claim(path, beat=0.0)  # this process is alive, however long it takes
    assert changed_claim(path, birth="another process that had this number")
    assert changed_claim(path, pid=2**22 + 1)
    assert not changed_claim(path, host="elsewhere", pid=2**22 + 1)
    assert changed_claim(path, host="elsewhere", beat=time.time() - SILENT_SECONDS - 1)
    assert not changed_claim(path, birth="", pid=2**22 + 1)  # a system that cannot tell
    assert changed_claim(path, birth="", beat=time.time() - SILENT_SECONDS - 1)


def test_a_process_elsewhere_holds_its_point_while_it_beats(path, monkeypatch):
    store = opened(path)
    monkeypatch.setattr(claims, "gethostname", lambda: "elsewhere")
    assert store.claim(point(0))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE claims SET beat = beat - ?", (SILENT_SECONDS + 1,))
    with beating(lambda: store.beat(point(0)), seconds=0.01):
        time.sleep(0.2)
    monkeypatch.undo()
    assert not opened(path).claim(point(0))
    assert store.held() == {point(0).key(store.fingerprint)}
    monkeypatch.setattr(claims, "SILENT_SECONDS", 0.0)
    assert opened(path).claim(point(0))
    store.beat(point(1))  # nobody's: nothing to say
    assert store.held() == {point(0).key(store.fingerprint)}


def run_all(path: Path, count: int, pipe) -> None:
    store = opened(path)
    ran = []
    for number in range(count):
        if store.claim(point(number)):
            ran.append(number)
            put(store, number)
    pipe.send(ran)


def test_processes_share_the_points(path):
    pipes, children = [], []
    for _ in range(4):  # all of them make the file, too
        ours, theirs = PROCESSES.Pipe()
        children.append(PROCESSES.Process(target=run_all, args=(path, 30, theirs)))
        children[-1].start()
        pipes.append(ours)
    ran = [number for pipe in pipes for number in pipe.recv()]
    for child in children:
        child.join()
    assert sorted(ran) == list(range(30))  # each exactly once
    assert {each.name for each in opened(path).results()} == {f"p{number}" for number in range(30)}
    assert names(path) == ["grid.sqlite"]


# Killed


def put_for_ever(path: Path, first: int, pipe) -> None:
    store = opened(path)
    for number in range(first, first + 100_000):
        store.claim(point(number))
        put(store, number)
        pipe.send(number)


def test_killed_at_any_time_loses_nothing(path):
    promised = set()
    for turn in range(25):
        ours, theirs = PROCESSES.Pipe()
        child = PROCESSES.Process(target=put_for_ever, args=(path, 1000 * turn, theirs))
        child.start()
        theirs.close()
        promised.add(ours.recv())
        time.sleep(0.0013 * turn)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        while ours.poll():
            try:
                promised.add(ours.recv())
            except EOFError:
                break
    found = opened(path).results()
    assert {f"p{number}" for number in promised} <= {each.name for each in found}
    assert len(found) - len(promised) <= 25  # what was written and not told
    assert all(torch.equal(each.resamples["macro_ap"], resamples(int(each.name[1:]))["macro_ap"]) for each in found)
    assert not [name for name in names(path) if "damaged" in name]


def test_ctrl_c_while_the_file_is_made_leaves_none(path, monkeypatch):
    monkeypatch.setattr(database, "_place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        opened(path)
    assert names(path) == []


def test_half_a_transaction_is_rolled_back(filled, tmp_path):
    """The file and its journal as a process leaves them that is killed when half the pages are written."""
    copy = tmp_path / "copy" / "grid.sqlite"
    copy.parent.mkdir()
    with closing(sqlite3.connect(filled, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN")
        db.execute("UPDATE results SET resamples = zeroblob(20000), name = 'half'")
        for suffix in ("", "-journal"):
            shutil.copy(f"{filled}{suffix}", f"{copy}{suffix}")
        db.execute("ROLLBACK")
    assert copy.read_bytes() != filled.read_bytes()
    assert [each.name for each in opened(copy).results()] == [f"p{number}" for number in range(20)]
    assert names(copy) == ["grid.sqlite"]


def test_a_journal_whose_file_was_removed_does_not_spoil_the_next(filled):
    Path(f"{filled}-journal").write_bytes(b"a journal")
    filled.unlink()
    put(opened(filled), 1)
    assert len(opened(filled).results()) == 1
    assert names(filled) == ["grid.sqlite", "grid.sqlite.damaged-1"]


def test_every_commit_is_flushed(path):
    opened(path)
    with Database(path).transaction() as db:
        assert db.execute("PRAGMA synchronous").fetchone()[0] >= 2  # FULL is 2, EXTRA 3
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"


# Other data, other settings


def test_other_settings_are_refused(filled):
    before = filled.read_bytes()
    with pytest.raises(RunError) as caught:
        opened(filled, settings=replace_settings(epochs=7, learning_rate=0.5))
    assert str(caught.value) == (
        f"grid {filled}: holds a grid of other settings (there -> now):\n"
        "  train.learning_rate: 0.001 -> 0.5\n  train.epochs: 8 -> 7\n"
        "Run the same command as before to continue it, or choose another --out"
    )
    assert filled.read_bytes() == before
    with pytest.raises(RunError, match="seed: 0 -> 1"):  # it decides the split
        opened(filled, settings=ClassifySettings(seed=1))


def replace_settings(**train: object) -> ClassifySettings:
    return ClassifySettings(train=TextTrainSettings(**train))


def test_threads_may_change(filled):
    assert len(opened(filled, settings=replace_settings(threads=1, checkpoint_seconds=5)).done()) == 20


def test_other_data_is_refused(path):
    opened(path, about={"documents": 900, "labels": 5})
    with pytest.raises(RunError) as caught:
        opened(path, fingerprint="other", about={"documents": 901, "labels": 5})
    assert "holds a grid of other data (there -> now):\n  documents: 900 -> 901\n" in str(caught.value)
    assert "fingerprint of the data: data -> other" in str(caught.value)
    assert names(path) == ["grid.sqlite"]


# Damage


@pytest.mark.parametrize("share", [0, 1e-4, 0.003, 0.02, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_and_kept(filled, share):
    damaged = filled.read_bytes()[: int(filled.stat().st_size * share)]
    filled.write_bytes(damaged)
    kept = filled.with_name("grid.sqlite.damaged-1")
    with pytest.raises(RunError) as caught:
        opened(filled)
    assert f"grid {filled}: the store is damaged (" in str(caught.value)
    assert f"It is kept as {kept}: restore a copy of it as grid.sqlite, or run again" in str(caught.value)
    assert kept.read_bytes() == damaged
    assert names(filled) == [kept.name]
    put(opened(filled), 1)  # and anew
    filled.write_bytes(damaged)
    with pytest.raises(RunError, match="damaged-2"):
        opened(filled)
    assert kept.read_bytes() == damaged


def test_every_length_is_refused(filled, tmp_path):
    whole = filled.read_bytes()
    for number, size in enumerate(range(0, len(whole), 4096 + 1)):
        path = tmp_path / str(number)
        path.write_bytes(whole[:size])
        with pytest.raises(RunError, match="is damaged"):
            opened(path)


def test_the_journal_of_a_damaged_file_is_kept_with_it(filled):
    Path(f"{filled}-journal").write_bytes(b"a journal")
    assert "damaged-1" in str(Database(filled).aside("why"))
    assert names(filled) == ["grid.sqlite.damaged-1", "grid.sqlite.damaged-1-journal"]


@pytest.mark.parametrize("found", [b"x", b"no database" * 1000, b"\0" * 9000])
def test_a_file_that_is_no_database(path, found):
    path.parent.mkdir()
    path.write_bytes(found)
    with pytest.raises(RunError, match="the store is damaged"):
        opened(path)
    assert path.with_name("grid.sqlite.damaged-1").read_bytes() == found


def test_a_flipped_bit_is_found(filled, tmp_path):
    """SQLite has no checksums of content; the rows have."""
    whole = bytearray(filled.read_bytes())
    for place in (
        whole.find(b"macro_ap"),
        whole.find(b"p13") + 1,
        whole.rfind(b"macro_ap") + 2000,
        whole.find(b"learning"),
    ):
        path = tmp_path / f"at {place}"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(RunError, match=r"the store is damaged \(.*does not match its checksum"):
            opened(path)


def test_text_that_is_none(filled):
    with closing(sqlite3.connect(filled)) as db, db:
        db.execute("UPDATE results SET error = CAST(x'ff' AS TEXT) WHERE name = 'p3'")
    with pytest.raises(RunError, match="the store is damaged"):
        opened(filled)


def test_damage_that_comes_while_it_is_open(filled):
    store = opened(filled)
    filled.write_bytes(b"x" * 5000)
    with pytest.raises(RunError, match=r"damaged-1"):
        put(store, 30)
    with pytest.raises(RunError, match="unable to open database file"):  # and no new one is made in its place
        put(store, 30)
    assert names(filled) == ["grid.sqlite.damaged-1"]


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE meta SET value = 'hyperfocal grid 9' WHERE name = 'format'", "it is of hyperfocal grid 9, not of"),
        ("DROP TABLE meta", "it is of another program, not of hyperfocal grid 2"),
        ("DROP TABLE claims", "not of hyperfocal grid 2"),
    ],
)
def test_a_sound_file_of_another_kind_is_left_alone(filled, statement, what):
    with closing(sqlite3.connect(filled)) as db, db:
        db.execute(statement)
    before = filled.read_bytes()
    with pytest.raises(RunError, match=f"{what}.*"):
        opened(filled)
    assert (filled.read_bytes(), names(filled)) == (before, ["grid.sqlite"])


# What cannot be written


def test_a_folder_in_the_way(path):
    path.mkdir(parents=True)
    with pytest.raises(RunError, match="unable to open database file"):
        opened(path)
    assert names(path) == ["grid.sqlite"]


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "grid").write_text("x")
    with pytest.raises(RunError, match=r"cannot write .*grid\.sqlite"):
        opened(tmp_path / "grid" / "grid.sqlite")


def test_a_file_that_another_program_holds(filled, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    store = opened(filled)
    with closing(sqlite3.connect(filled, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RunError, match="cannot be used: database is locked"):
            put(store, 40)
    put(store, 40)
    assert len(store.done()) == 21


def fill(path: Path) -> None:
    with Database(path).transaction() as db:
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        db.execute("UPDATE results SET resamples = zeroblob(900000)")


def test_a_full_disk_keeps_what_is_there(filled):
    with pytest.raises(RunError, match="cannot be used: database or disk is full"):
        fill(filled)
    assert len(opened(filled).results()) == 20


def test_a_file_system_without_hard_links(path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    put(opened(path), 1)
    assert len(opened(path).done()) == 1
    assert names(path) == ["grid.sqlite"]
