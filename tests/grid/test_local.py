import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grid_cases import (
    FORKS,
    FullDisk,
    Seen,
    ThreadCount,
    alive,
    children,
    command_points,
    documents,
    failing,
    forked_command,
    gammas,
    job,
    long,
    points,
    settings,
    wait_until,
)
from hyperfocal.classify.grid import prepare_grid
from hyperfocal.classify.prepare import prepare_texts
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.grid.local import LocalPool, interrupts_held_back
from hyperfocal.grid.pool import run_points
from hyperfocal.grid.search import run_grid
from hyperfocal.grid.store import Store

ONE = LocalPool(1, 1)
SOON = 20.0  # seconds; a machine that does other things besides needs some
ADDED = ("threads", "omp", "omp_at_start")  # by ThreadCount


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    data = prepare_texts(documents(), None, settings())
    return prepare_grid(data, points(1), settings(), cache=tmp_path_factory.mktemp("cache"), threads=1)


def opened(folder, material, kind=Store):
    return kind.open(folder / "grid.sqlite", fingerprint=material.fingerprint(), settings=settings())


@pytest.fixture
def store(tmp_path, material):
    return opened(tmp_path, material)


@pytest.fixture
def forks(monkeypatch):
    """Fork the workers: how they start is not the matter."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORKS)


def done(store):
    return {(result.name, result.seed) for result in store.results() if result.done}


def claims(store):
    """Return key -> process of the claims."""
    with closing(sqlite3.connect(store.path)) as db:
        return dict(db.execute("SELECT key, pid FROM claims").fetchall())


@pytest.mark.parametrize(("workers", "cores", "threads"), [(1, 1, 1), (1, 8, 8), (2, 8, 4), (3, 8, 2), (8, 8, 1)])
def test_workers_share_the_cores(monkeypatch, workers, cores, threads):
    for name in ("count_cores", "allowed_threads"):
        monkeypatch.setattr(f"hyperfocal.grid.local.{name}", lambda: cores)
    assert LocalPool(workers).threads(0) == threads
    assert workers * threads <= cores


@pytest.mark.parametrize("workers", [0, -1, 3])
def test_too_many_workers_or_none(monkeypatch, workers):
    monkeypatch.setattr("hyperfocal.grid.local.count_cores", lambda: 2)
    with pytest.raises(ConfigError, match=rf"--workers {workers} is not allowed. Expected 1 to 2"):
        LocalPool(workers)


# One process and two


GRID = [*gammas(None, 2, seeds=2), failing()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, material):
    """The same grid run with one worker and with two: [(store, watch)]."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "3")
        for workers in (1, 2):
            store, seen = opened(tmp_path_factory.mktemp(f"{workers}"), material, ThreadCount), Seen()
            run_points(material, GRID, store, seen, LocalPool(workers, 1))
            found.append((store, seen))
        assert os.environ["OMP_NUM_THREADS"] == "3"  # as it was
    return found


def test_one_and_two_workers_reach_the_same_numbers(ran):
    one, two = ({result.key: result for result in store.results()} for store, _ in ran)
    assert len(one) == len(GRID)
    assert one.keys() == two.keys()
    for key, ours in one.items():
        theirs = two[key]
        assert (ours.name, ours.seed, ours.settings) == (theirs.name, theirs.seed, theirs.settings)
        assert ours.error == theirs.error
        assert ours.values.keys() == theirs.values.keys()
        for metric in ours.values.keys() - set(ADDED):
            assert ours.values[metric] == pytest.approx(theirs.values[metric], abs=0, rel=0, nan_ok=True), metric
        assert ours.resamples.keys() == theirs.resamples.keys()
        for metric, resampled in ours.resamples.items():
            torch.testing.assert_close(resampled, theirs.resamples[metric], rtol=0, atol=0, equal_nan=True)


def test_seeds_and_points_differ(ran):
    """Else the test above would compare nothing."""
    reached = [result.values["macro_ap"] for result in ran[0][0].results() if result.done]
    assert len(set(reached)) == 4


def test_a_worker_has_its_threads_before_torch_starts(ran):
    store, _ = ran[1]
    counted = [{name: result.values[name] for name in ADDED} for result in store.results() if result.done]
    assert counted == [{"threads": 1, "omp": 1, "omp_at_start": 1}] * 4


def claim_and_wait(store, point, pipe):
    pipe.send(store.claim(point))
    pipe.recv()


def test_points_of_other_processes_are_waited_for_and_taken_over(store, material):
    """Another command is at a point and is killed: this one waits while it lives, and then trains the point."""
    ours, theirs = FORKS.Pipe()
    grid, seen = gammas(None), Seen()
    other = FORKS.Process(target=claim_and_wait, args=(store, grid[0], theirs), daemon=True)
    other.start()
    assert ours.recv() is True
    seen.on_wait = other.kill
    run_points(material, grid, store, seen, ONE)
    assert seen.events[0] == "waiting 1"
    assert done(store) == {(grid[0].name, grid[0].seed)}
    assert claims(store) == {}


@pytest.mark.parametrize("place", [0, 1])
def test_a_point_that_raises_is_kept_and_stops_no_other(ran, place):
    store, seen = ran[place]
    assert seen.of("finished") == [f"no_cap_{gamma} {seed}" for gamma in ("focal_g2", "no_focal") for seed in (0, 1)]
    assert seen.of("failed") == ["fails 0"]
    assert seen.of("started") == sorted(seen.of("finished") + seen.of("failed"))
    assert store.failed() == {failing().key(store.fingerprint): seen.errors["fails"]}
    assert seen.errors["fails"].startswith("TrainingError: the loss is inf in epoch 1")
    assert claims(store) == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_running_again_does_nothing(ran, material, workers):
    seen = Seen()
    run_points(material, GRID, ran[1][0], seen, LocalPool(workers, 1))
    assert seen.events == []


def test_a_seed_more_runs_only_that(ran, material):
    seen = Seen()
    run_points(material, [*gammas(None, 2, seeds=3), failing()], ran[0][0], seen, ONE)
    names = ("no_cap_no_focal", "no_cap_focal_g2")
    assert seen.events == [f"{what} {name} 2" for name in names for what in ("started", "finished")]


def test_retry_tries_what_failed(ran, material):
    seen = Seen()
    run_points(material, GRID, ran[0][0], seen, ONE, retry=True)
    assert seen.events == ["started fails 0", "failed fails 0"]


def test_any_error_of_a_training_is_kept(material, store):
    seen = Seen()
    run_points(replace(material, data=None), points(2), store, seen, ONE)
    assert seen.of("failed") == ["p0 0", "p1 0"]
    assert seen.errors["p0"].startswith("AttributeError: 'NoneType'")


# What ends a process


def test_a_killed_worker_costs_its_point_alone(material, store, forks):
    """With `retry` too: else it would be killed again and again, and `fails` be tried by both workers."""
    seen, grid = Seen(), [failing(), long(), *points(3)]
    run_points(material, [failing()], store, Seen(), ONE)
    key = long().key(store.fingerprint)
    seen.on_start["long"] = lambda: os.kill(claims(store)[key], signal.SIGKILL)
    run_points(material, grid, store, seen, LocalPool(2, 1), retry=True)
    assert seen.of("started") == ["fails 0", "long 0", "p0 0", "p1 0", "p2 0"]
    assert seen.of("finished") == ["p0 0", "p1 0", "p2 0"]
    assert seen.of("failed") == ["fails 0", "long 0"]
    assert seen.errors["long"] == store.failed()[key]
    assert "ended by signal 9" in seen.errors["long"]
    assert "Try fewer --workers" in seen.errors["long"]
    assert claims(store) == {}
    seen = Seen()
    run_points(material, grid, store, seen, ONE)  # a failed point waits for --retry
    assert seen.events == []
    run_points(material, grid, store, seen, ONE, retry=True)
    assert seen.of("finished") == ["long 0"]
    assert store.failed().keys() == {failing().key(store.fingerprint)}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_the_grid_and_leaves_the_point_free(tmp_path, material, forks, workers):
    store, seen = opened(tmp_path, material, FullDisk), Seen()
    with pytest.raises(RunError, match="no space left"):
        run_points(material, points(1), store, seen, LocalPool(workers, 1))
    assert seen.events == ["started p0 0"]
    assert store.failed() == {}
    run_points(material, points(1), store, seen, ONE)  # in the same process, whose claim would count
    assert done(store) == {("p0", 0)}


def test_an_interrupt_at_the_start_of_a_point_leaves_it_free(material, store):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_points(material, points(2), store, Seen(on_start={"p1": interrupt}), ONE)
    assert done(store) == {("p0", 0)}
    seen = Seen()
    run_points(material, points(2), store, seen, ONE)
    assert seen.events == ["started p1 0", "finished p1 0"]


CASES = Path(__file__).parents[1] / "cases" / "grid_cases.py"


@contextmanager
def spawned(folder, epochs):
    """The command as a user starts it, in a process group of its own; give its process."""
    arguments = [sys.executable, str(CASES), str(folder), str(epochs)]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            arguments, cwd=Path(__file__).parents[1] / "cases", stdout=out, stderr=err, start_new_session=True
        )
    try:
        yield process
    finally:
        if any(alive(pid) for pid in (process.pid, *children(process.pid))):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def forked(folder, epochs):
    """The command in a process that is there at once, as its workers are."""
    process = FORKS.Process(target=forked_command, args=(folder, epochs))
    process.start()
    try:
        yield process
    finally:
        process.kill()  # its workers end then, as is tested
        process.join()


STARTS = pytest.mark.parametrize("start", [forked, pytest.param(spawned, marks=pytest.mark.slow)])


def said(folder, name):
    return (folder / name).read_text() if (folder / name).exists() else ""


def training(folder, process):
    """Return the two workers, once both are at a long point."""

    def both():
        assert alive(process.pid), said(folder, "err")
        return {"started long_a", "started long_b"} <= set(said(folder, "out").splitlines())

    wait_until(both, 60)
    workers = {pid for (pid,) in rows(folder, "SELECT pid FROM claims")}
    assert len(workers) == 2
    return workers


def rows(folder, query):
    with closing(sqlite3.connect(folder / "grid" / "grid.sqlite")) as db:
        return db.execute(query).fetchall()


@STARTS
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path, start):
    epochs = 300
    with start(tmp_path, epochs) as process:
        workers = training(tmp_path, process)
        for pid in (process.pid, *workers):  # as the terminal does
            os.kill(pid, signal.SIGINT)
        wait_until(lambda: not any(map(alive, (process.pid, *workers))), SOON)
    assert said(tmp_path, "err").count("Traceback") == 1, said(tmp_path, "err")  # the command's; workers end in silence
    assert "KeyboardInterrupt" in said(tmp_path, "err")
    assert rows(tmp_path, "SELECT name FROM results ORDER BY name") == [("p0",), ("p1",)]
    assert rows(tmp_path, "SELECT * FROM claims") == []  # not even dead ones: each was given back
    again = job(tmp_path)
    found = run_grid(again, command_points(epochs), "p0")
    assert again.watch.of("started") == ["long_a 0", "long_b 0"]
    assert list(found.results) == ["p0", "p1", "long_a", "long_b"]


def test_ctrl_c_while_workers_start(tmp_path):
    with spawned(tmp_path, 300) as process:
        wait_until(lambda: len(children(process.pid)) >= 2 or process.poll() is not None, 60)
        left = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(SOON) == -signal.SIGINT
        wait_until(lambda: not any(map(alive, left)), 5)
    assert said(tmp_path, "err").count("Traceback") == 1
    assert said(tmp_path, "out") == ""


def test_ctrl_c_that_another_thread_takes_is_held_back_too():
    """As one of polars or torch does, which does not know our mask; a worker half started would say a traceback."""
    ended, reached = threading.Event(), []

    def interrupted():
        with interrupts_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached.append("end")

    threading.Thread(target=ended.wait).start()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    ended.set()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@STARTS
def test_workers_end_when_their_parent_is_killed(tmp_path, start):
    """In the middle of points that would take minutes; and their claims are given back."""
    with start(tmp_path, 100_000) as process:
        workers = training(tmp_path, process)
        process.kill()
        wait_until(lambda: not any(map(alive, workers)), SOON)
    assert rows(tmp_path, "SELECT * FROM claims") == []
    assert rows(tmp_path, "SELECT name FROM results ORDER BY name") == [("p0",), ("p1",)]
    assert said(tmp_path, "err") == ""
