"""A grid on a real Ray cluster of two nodes, on the same machine: what is stored, and what survives."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
import torch

import log_cases
from grid_cases import FORKS, TINY, Seen, documents, failing, gammas, job, long, points
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.grid import ray as with_ray
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.ray_cluster import Share, connected

pytest.importorskip("ray")
from ray_cases import two_nodes

LONG = 400  # epochs: some seconds
SOON = 300.0  # seconds; a machine that does other things besides needs some


# What a point gets


@pytest.mark.parametrize(
    ("share", "resources", "room"),
    [
        (Share(), {"CPU": 2.0}, 2),
        (Share(2), {"CPU": 7.0}, 3),
        (Share(2), {"CPU": 1.0}, 0),
        (Share(), {}, 0),
        (Share(1, 1), {"CPU": 4.0}, 0),
        (Share(1, 1), {"CPU": 4.0, "GPU": 2.0}, 2),
        (Share(1, 2), {"CPU": 4.0, "GPU": 3.0}, 1),
        (Share(1, 0.1), {"CPU": 99.0, "GPU": 1.0}, 10),
        (Share(1, 0.3), {"CPU": 99.0, "GPU": 2.0}, 6),  # no point gets parts of two
        (Share(3, 0.5), {"CPU": 5.0, "GPU": 2.0}, 1),
    ],
)
def test_a_node_has_room_for_whole_points(share, resources, room):
    assert share.fits(resources) == room


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"cpus": -1}, {"gpus": -0.5}, {"gpus": 1.5}])
def test_shares_that_nothing_could_have_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"is not allowed\. Expected"):
        Share(**wrong)


# Driver and cluster, without a cluster


class NoRay:
    """Stands in for Ray: trains at once, and loses the first tasks as if their node had died."""

    def __init__(self, losses, error):
        self.losses, self.error, self.tasks, self.cancelled = losses, error, [], []

    def remote(self, function):
        self.function = function
        return self

    def options(self, **given):
        self.given = given
        self.task = self
        return Submit(self)

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        if self.losses:
            self.losses -= 1
            raise self.error
        return self.tasks[reference]()

    def cancel(self, reference, force):
        self.cancelled.append(reference)


class Submit:
    def __init__(self, ray):
        self.ray = ray

    def remote(self, data, point, versions):
        self.ray.tasks.append(lambda: with_ray.train_point(data[0], point)._replace(seconds=1.5))
        return len(self.ray.tasks) - 1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return job(tmp_path_factory.mktemp("prepared")).prepare([*points(3), failing()])


@pytest.fixture
def tasks(prepared, tmp_path, monkeypatch):
    """Return a function that makes tasks on a Ray that loses some tasks."""
    import ray

    def make(losses=0, error=None):
        stand_in = NoRay(losses, error)
        stand_in.seen = Seen()
        for name in ("remote", "wait", "get", "cancel"):
            monkeypatch.setattr(ray, name, getattr(stand_in, name))
        _, store = job(tmp_path).prepare(points(1))
        return with_ray._Tasks(prepared[0], Share(2, 0.5), store, stand_in.seen, False), stand_in, store

    return make


def crashed():
    from ray.exceptions import WorkerCrashedError

    return WorkerCrashedError()


def collect_all(tasks):
    while tasks.running:
        tasks.collect(0)


def test_a_point_whose_node_dies_is_submitted_again(tasks):
    ours, ray, store = tasks(3, crashed())
    ours.submit(points(1)[0])
    collect_all(ours)
    assert len(ray.tasks) == with_ray.ATTEMPTS == 4
    assert [(result.name, result.error, result.seconds) for result in store.results()] == [("p0", "", 1.5)]
    assert ray.seen.events == ["started p0 0", "finished p0 0"]


def test_a_point_that_kills_its_node_again_and_again_fails(tasks):
    ours, ray, store = tasks(4, crashed())
    ours.submit(points(1)[0])
    collect_all(ours)
    assert len(ray.tasks) == 4
    assert "died 4 times, the last time by WorkerCrashedError" in store.results()[0].error
    assert ray.seen.events == ["started p0 0", "failed p0 0"]
    assert store.held() == set()


def test_a_point_that_fails_by_itself_is_not_tried_again(tasks):
    ours, ray, store = tasks()
    ours.submit(failing())
    collect_all(ours)
    assert len(ray.tasks) == 1
    assert "TrainingError" in store.results()[0].error


def test_ray_is_asked_for_what_a_point_gets(tasks):
    _, ray, _ = tasks()
    assert {name: ray.given[name] for name in ("num_cpus", "num_gpus", "max_retries")} == {
        "num_cpus": 2, "num_gpus": 0.5, "max_retries": 0,
    }  # fmt: skip
    assert ray.given["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "2"


def test_nodes_with_other_versions_are_refused(prepared):
    with pytest.raises(RunError, match=r"and the driver .*'torch': '0'.* Install the same versions"):
        with_ray._train([prepared[0]], points(1)[0], {"torch": "0"})


def test_points_of_others_are_left_alone(tasks, tmp_path):
    ours, ray, store = tasks()
    store.put(points(1)[0], {"macro_ap": 1.0}, {}, seconds=1)
    ours.submit(points(1)[0])
    assert (ray.tasks, ours.running) == ([], {})


def test_what_stops_gives_its_points_back(tasks):
    ours, ray, store = tasks()
    for point in points(2):
        ours.submit(point)
    assert len(store.held()) == 2
    ours.beat()
    ours.stop()
    assert store.held() == set()
    assert ray.cancelled == [0, 1]


def test_a_point_that_is_claimed_as_ctrl_c_comes_is_given_back(tasks, monkeypatch):
    ours, ray, store = tasks()
    claim = store.claim

    def interrupted(point, *, retry):
        assert claim(point, retry=retry)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "claim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ours.submit(points(1)[0])
    assert (store.held(), ray.tasks) == (set(), [])


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr("hyperfocal.grid.ray_cluster.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'hyperfocal\[ray\]'"), connected("auto"):
        pass


@pytest.mark.parametrize(
    "address", ["", "somewhere", "host:port", "ray://host:10001", "host:70000", ":6379", "http://host:80"]
)
def test_addresses_of_another_form_are_refused(address):
    with pytest.raises(ConfigError, match="Expected auto, local, or HOST:PORT"), connected(address):
        pass


def test_an_address_where_nothing_answers_is_refused_at_once():
    with (
        pytest.raises(RunError, match=r"--ray 127.0.0.1:1: no Ray cluster answers .*refused"),
        connected("127.0.0.1:1"),
    ):
        pass


# A real cluster


@pytest.fixture(scope="module")
def nodes():
    with two_nodes() as found:
        yield found


@contextmanager
def pool(nodes, **options):
    with with_ray.ray_pool(nodes.address, Share(), **options) as found:
        yield found


def reached(store):
    return {result.key: result for result in store.results()}


def assert_same(ours, theirs):
    """Compare two stores to the last bit."""
    ours, theirs = reached(ours), reached(theirs)
    assert ours.keys() == theirs.keys()
    for key, found in ours.items():
        other = theirs[key]
        assert (found.name, found.seed, found.error) == (other.name, other.seed, other.error)
        assert found.values == pytest.approx(other.values, abs=0, rel=0, nan_ok=True)
        assert found.resamples.keys() == other.resamples.keys()
        for metric, resampled in found.resamples.items():
            torch.testing.assert_close(resampled, other.resamples[metric], rtol=0, atol=0, equal_nan=True)


def run(job, points, **options):
    """Run a grid; return its store."""
    prepared, store = job.prepare(points)
    job.run(prepared, points, store)
    return store


@pytest.mark.slow
def test_a_grid_on_two_nodes_of_which_one_is_killed(nodes, tmp_path):
    """The points are as those of local workers; the one on the dead node is trained again; nobody reads the cache."""
    grid = [*gammas(None, 2, seeds=2), long("long_a", LONG), long("long_b", LONG + 1), failing()]
    local = run(job(tmp_path / "local"), grid)
    seen = Seen()
    with pool(nodes) as ray:
        assert ray.size == 2
        ours = replace(job(tmp_path / "ray", watch=seen), pool=ray)
        prepared, store = ours.prepare(grid)
        seen.on_start = {
            grid[0].name: lambda: shutil.rmtree(tmp_path / "ray" / "cache", ignore_errors=True),
            "fails": lambda: nodes.tell("kill node"),  # the last to start: a long one runs beside it
        }
        ours.run(prepared, grid, store)
    assert_same(store, local)
    assert len(store.results()) == len(grid)
    assert seen.of("started") == sorted(f"{point.name} {point.seed}" for point in grid)
    assert seen.of("finished") == sorted(f"{point.name} {point.seed}" for point in grid if point.name != "fails")
    assert "TrainingError" in seen.errors["fails"]
    assert store.held() == set()
    assert not (tmp_path / "ray" / "cache").exists()
    nodes.tell("add node")


@pytest.mark.slow
def test_a_grid_of_logs_and_a_local_worker_beside_it(nodes, tmp_path):
    """Another command works on the same store meanwhile: each point is trained by one of them."""
    grid = log_cases.points("gru", "mean", "markov", losses=("bce", "softmax"), seeds=2)
    local = run(log_cases.job(tmp_path / "local"), grid)
    ours, theirs = log_cases.RankingSeen(), tmp_path / "theirs"
    with pool(nodes, most=1) as ray:
        both = replace(log_cases.job(tmp_path / "both", watch=ours), pool=ray)
        alone = replace(both, watch=None, pool=LocalPool(1, 1))
        beside = FORKS.Process(target=log_cases.train_beside, args=(alone, grid, theirs))
        ours.on_start[grid[0].name] = lambda: (ours.on_start.clear(), beside.start())
        store = run(both, grid)
        beside.join()
    assert beside.exitcode == 0
    assert_same(store, local)
    started = ours.of("started") + theirs.read_text().splitlines()
    assert sorted(started) == sorted(f"{each.name} {each.seed}" for each in grid)


@pytest.mark.slow
def test_a_share_that_no_node_has_is_refused(nodes):
    refused = pytest.raises(ConfigError, match=r"no node .* 2 CPUs: there are [23] with 1 CPUs and 0 GPUs")
    with refused, with_ray.ray_pool(nodes.address, Share(2)):
        pass


# The command


@contextmanager
def command(folder, *options, stdout=subprocess.DEVNULL, epochs=100):
    """Give a running `classify grid` of six points, in a session of its own."""
    rows = zip(documents().ids, documents().texts, documents().labels.to_list(), strict=True)
    lines = [json.dumps({"id": name, "text": text, "labels": labels}) + "\n" for name, text, labels in rows]
    (folder / "docs.jsonl").write_text("".join(lines))
    values = {**TINY, "train.epochs": epochs, "train.patience": 0}
    assignments = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    axes = ["--caps", "none", "--gammas", "none,2", "--seeds", "3", "--out", folder / "grid"]
    words = [sys.executable, "-m", "hyperfocal", "classify", "grid", folder / "docs.jsonl", *assignments, *axes]
    variables = os.environ | {"HYPERFOCAL_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    with subprocess.Popen(
        [*map(str, words), *options], env=variables, stderr=subprocess.PIPE, stdout=stdout, text=True
    ) as process:
        yield process
        process.kill()


def ended(process, code):
    """Return what an ended command had left to say on stderr."""
    said = process.communicate(timeout=SOON)[1]
    assert process.returncode == code, said
    return " ".join(said.split())


def rows_of(folder, table):
    with closing(sqlite3.connect(folder / "grid" / "grid.sqlite", timeout=30)) as db:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


@pytest.mark.slow
def test_ctrl_c_gives_back_what_runs(nodes, tmp_path):
    with command(tmp_path, "--ray", nodes.address) as process:
        assert process.stderr.readline().startswith("[1/6] ")
        process.send_signal(signal.SIGINT)
        assert "stopped. What is done is kept" in ended(process, 130)
    assert 1 <= rows_of(tmp_path, "results") < 6
    assert rows_of(tmp_path, "claims") == 0


@pytest.mark.slow
def test_what_ray_says_of_a_dead_node_is_not_among_the_results(nodes, tmp_path):
    with command(tmp_path, "--ray", nodes.address, stdout=subprocess.PIPE, epochs=1_000) as process:
        assert process.stderr.readline().startswith("[1/6] ")
        nodes.tell("kill node")
        results, progress = process.communicate(timeout=SOON)
    nodes.tell("add node")
    assert process.returncode == 0, progress
    assert "marked dead" in progress
    assert "raylet" not in results
    assert "no_cap_focal_g2" in results


@pytest.mark.slow
def test_when_the_head_is_gone_finished_points_are_kept(nodes, tmp_path):
    """The last test of the cluster. Local workers go on where it stopped."""
    with command(tmp_path, "--ray", nodes.address) as process:
        assert process.stderr.readline().startswith("[1/6] ")
        nodes.tell("kill head")
        assert "error: the Ray cluster is lost: its head at" in ended(process, 2)
    kept = rows_of(tmp_path, "results")
    assert 1 <= kept < 6
    assert rows_of(tmp_path, "claims") == 0
    with command(tmp_path) as process:
        assert f"{kept} ended in an earlier run and are kept" in ended(process, 0)
    assert rows_of(tmp_path, "results") == 6
