import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from command_cases import done, names_below, refused, rows, write
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import flat_settings, resolve
from hyperfocal.config.recommend import ModelSettings, RecommendSettings
from hyperfocal.config.sections import LARGEST
from hyperfocal.errors import ConfigError, RunError, TrainingError
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.models.parameter_counts import count_parameters
from hyperfocal.models.sequence_networks import CausalNetwork, ConcatMLP
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training import memory
from hyperfocal.training.memory import begun
from log_cases import TINY, log
from run_cases import full_disk

HUGE = 2_000_000_000
EPOCH = ("--set", "train.epochs=1", "--set", "train.threads=1")


def features(num_items):
    return ItemFeatures(
        torch.arange(num_items + 1),
        torch.zeros(num_items, dtype=torch.int64),
        torch.ones(num_items),
        torch.zeros(num_items, 3),
        torch.zeros(num_items),
        5,
    )


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("filter", [0.0, 0.5])
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("name", ["mean", "gru", "transformer"])
def test_counted_parameters_are_those_of_the_network(name, table, filter, positions):
    for width, layers, forward in itertools.product((4, 12), (1, 3), (1, 4)):
        settings = ModelSettings(
            name=name, embedding_width=width, layers=layers, feed_forward=forward, filter=filter, positions=positions
        )
        given = features(7) if table else None
        network = CausalNetwork(7, 9, settings, bias=0.0, features=given)
        counted = count_parameters(settings, 7, 9, given)
        assert counted == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("widths", [(), (5,), (5, 6)])
def test_counted_parameters_are_those_of_the_mlp(widths):
    settings = ModelSettings(name="concat_mlp", embedding_width=3, hidden_widths=widths)
    network = ConcatMLP(7, 4, settings, bias=0.0)
    assert count_parameters(settings, 7, 4) == sum(parameter.numel() for parameter in network.parameters())


MEASURE = """
import resource, sys
import polars as pl
from hyperfocal import Recommender, MultiLabelClassifier
from hyperfocal.training import memory
from hyperfocal.recommend import recommender
from hyperfocal.classify import training
counts = []
def check(settings, estimate):
    counts.append(estimate.count(settings))
import hyperfocal.recommend.memory, hyperfocal.classify.memory
hyperfocal.recommend.memory.check_memory = hyperfocal.classify.memory.check_memory = check
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
job, settings = sys.argv[1], {"train.epochs": 1, "train.threads": 1}
if job == "recommend":
    events = [(u, (u * 5 + s) % 50, s) for u in range(15) for s in range(10)]
    log = pl.DataFrame(events, ["user", "item", "order"], orient="row")
    Recommender(settings=settings).fit(log)
    before = peak()
    Recommender(settings=settings | {"model.embedding_width": 512, "model.layers": 6}).fit(log)
else:
    texts, labels = [f"w{n % 97} w{n % 89}" for n in range(1_000)], [[f"l{n % 500}"] for n in range(1_000)]
    small = {"features.kind": "ngrams", "features.max_features": 20}
    MultiLabelClassifier(settings=settings | small).fit(texts, labels)
    before = peak()
    large = {"features.kind": "ngrams", "features.max_features": 40_000, "features.hashed": True}
    MultiLabelClassifier(settings=settings | large).fit(texts, labels)
print(before, peak(), counts[-1])
"""


@pytest.mark.parametrize("job", ["recommend", "classify"])
def test_a_training_takes_at_least_the_estimated_memory(job):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, job]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr
    before, peak, estimate = map(int, ended.stdout.split())
    print(
        f"{job}: {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} MiB at most, {estimate / 2**20:.0f} MiB estimated"
    )
    assert 100 * 2**20 < estimate < peak
    assert peak - before < 6 * estimate  # no estimate of nothing


LOG_CASES = {
    "model.embedding_width": (f"model.embedding_width={HUGE}",),
    "data.history": ("data.history=1000000000",),
    "model.layers": ("model.name=gru", f"model.layers={HUGE}"),
    "model.feed_forward": (f"model.feed_forward={HUGE}",),
    "model.hidden_widths": ("model.name=concat_mlp", "data.history=3", f"model.hidden_widths=[{HUGE},{HUGE}]"),
}


@pytest.mark.parametrize("setting", LOG_CASES)
def test_a_network_that_cannot_fit_is_refused_before_anything_is_written(setting, tmp_path):
    log().write_csv(tmp_path / "log.csv")
    asked = [word for pair in LOG_CASES[setting] for word in ("--set", pair)]
    fit = ("recommend", "fit", tmp_path / "log.csv", "--out", tmp_path / "run", *EPOCH)
    message = refused(*fit, *asked)
    assert f"--set {LOG_CASES[setting][-1]} needs about " in message
    assert f"allows {memory.in_units(memory.largest_memory()[0])}. Lower {setting}" in message
    assert names_below(tmp_path) == ["log.csv"]


TEXT_CASES = {
    "features.max_features": ("features.hashed=true", "features.max_features=2000000000"),
    "train.folds": ("train.folds=2000000000",),
}


@pytest.mark.parametrize("setting", TEXT_CASES)
def test_a_head_that_cannot_fit_is_refused_before_anything_is_written(setting, tmp_path):
    write(tmp_path / "docs.jsonl", rows())
    asked = [word for pair in TEXT_CASES[setting] for word in ("--set", pair)]
    docs = ("classify", "fit", tmp_path / "docs.jsonl", "--text", "title", "--out", tmp_path / "run")
    assert setting in refused(*docs, "--features", "ngrams", *EPOCH, *asked)
    assert names_below(tmp_path) == ["docs.jsonl"]


@pytest.mark.parametrize(
    "setting",
    ["train.batch_size", "loss.negatives", "data.ahead", "model.heads", "train.warmup_steps", "train.threads"],
)
def test_a_huge_number_that_needs_no_memory_is_allowed(setting, tmp_path):
    settings = TINY | {setting: LARGEST, "train.epochs": 1}
    if setting == "model.heads":
        settings |= {"model.name": "mean"}
    Recommender(settings=settings).fit(log())


def test_the_limit_of_the_process_counts(monkeypatch):
    settings = RecommendSettings()
    monkeypatch.setattr(memory, "largest_memory", lambda: (999, "the limit `ulimit -v`"))
    estimate = memory.Estimate(lambda settings: settings.data.history * 20, ["data.history", "model.layers"], "3 items")
    expected = (
        r"`settings=\{'data.history': 50\}` needs about 1,000.0 bytes of memory for 3 items, but the limit "
        r"`ulimit -v` allows 999.0 bytes\. Lower data.history"
    )
    with pytest.raises(ConfigError, match=expected):
        memory.check_memory(settings, estimate)
    monkeypatch.setattr(memory, "largest_memory", lambda: (1000, "this machine"))
    memory.check_memory(settings, estimate)


FAILURES = {
    "python": MemoryError(),
    "torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 164000000000 bytes."),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "c++": RuntimeError("std::bad_alloc"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_run_whose_first_step_has_no_memory_can_begin_again(name, tmp_path, monkeypatch):
    log().write_csv(tmp_path / "log.csv")
    fit = ("recommend", "fit", tmp_path / "log.csv", "--out", tmp_path / "run")
    asked = [word for key, value in TINY.items() for word in ("--set", f"{key}={json.dumps(value)}")]

    def fail(*arguments, **options):
        raise FAILURES[name]

    with monkeypatch.context() as patched:
        patched.setattr("hyperfocal.recommend.network.read_batch", fail)
        assert "the memory is not enough" in refused(*fit, *asked)
    done(*fit, *asked, "--set", "model.layers=2")


def test_a_run_that_failed_beside_other_files_can_begin_again(tmp_path, monkeypatch):
    log().write_csv(tmp_path / "log.csv")
    run = tmp_path / "run"
    fit = ("recommend", "fit", tmp_path / "log.csv", "--out", run)
    asked = [word for key, value in TINY.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    done(*fit, *asked)
    (run / "notes.txt").write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_checkpoint", full_disk)
        assert "No space left on device" in refused(*fit, *asked, "--overwrite")
    assert names_below(run) == ["data.json", "notes.txt"]
    done(*fit, *asked, "--overwrite")
    assert (run / "notes.txt").read_text() == "mine"


def test_a_run_with_a_checkpoint_is_not_removed(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.write_checkpoint({}, {})
    with pytest.raises(TrainingError, match=r"the memory is not enough\. Lower train.batch_size"), begun(run):
        raise MemoryError
    assert names_below(run.path) == ["checkpoints", "checkpoints/last.safetensors"]


def test_an_error_is_told_even_if_the_run_cannot_be_removed(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    (run.path / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr("shutil.rmtree", full_disk)
    with pytest.raises(RunError, match="No space left on device"):
        run.clear()
    with pytest.raises(RuntimeError, match="shapes differ"), begun(run):
        raise RuntimeError("shapes differ")


def test_an_error_of_the_disk_is_not_of_memory():
    with pytest.raises(OSError, match="Cannot allocate memory"), begun(None):
        raise OSError(12, "Cannot allocate memory")


def test_an_error_that_is_not_of_memory_stays_as_it_is():
    with pytest.raises(RuntimeError, match="shapes differ"), begun(None):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("step", ["predict", "evaluate"])
@pytest.mark.parametrize("name", FAILURES)
def test_any_command_without_memory_ends_with_one_line(name, step, recommend_path, tmp_path, monkeypatch):
    log().write_csv(tmp_path / "log.csv")

    def fail(*arguments, **options):
        raise FAILURES[name]

    monkeypatch.setattr(Recommender, step, fail)
    out = ("--out", tmp_path / "out.csv") if step == "predict" else ()
    message = refused("recommend", step, recommend_path, tmp_path / "log.csv", *out)
    assert message.startswith("error: the memory is not enough")
    assert names_below(tmp_path) == ["log.csv"]


def resolved(kind, key, value):
    """Return the setting and "", or None and the message of the error."""
    try:
        return flat_settings(resolve(kind, overrides={key: value}))[key], ""
    except ConfigError as error:
        return None, str(error)


def same(got, value):
    """Return whether a value is accepted as it is: an integer may become a float, but no bool a number."""
    return np.all(np.equal(got, value)) and not isinstance(value, bool)


WRONG = [
    1e9, 1e308, -1, -1e9, 0.5, float("nan"), float("inf"), -float("inf"), True, False, 10**400, -(10**400), 10**5000,
    LARGEST + 1, 2**63, 2**64, 1e400, [1], [[1]], {}, "1", "1e9", "", b"1", complex(1), SimpleNamespace(),
]  # fmt: skip


@pytest.mark.parametrize("kind", [RecommendSettings, ClassifySettings])
def test_every_number_among_the_settings_refuses_a_wrong_one(kind):
    """A wrong number is a ConfigError in at most 500 characters, and what is accepted is what was given."""
    tried = 0
    for key, default in flat_settings(kind()).items():
        if isinstance(default, bool | str) or default is None:
            continue
        for value in WRONG:
            tried += 1
            got, message = resolved(kind, key, value)
            assert (key in message and len(message) < 500) if message else same(got, value)
    print(f"{tried} wrong numbers for {kind.__name__}")


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5_000, "1e400", "nan", "-inf", "0x" + "f" * 400, "1_" * 300 + "1"])
@pytest.mark.parametrize("key", ["seed", "train.epochs", "model.hidden_widths", "loss.gamma"])
def test_a_number_of_any_size_in_a_recipe_is_an_error(key, text, tmp_path):
    section, _, name = key.rpartition(".")
    (tmp_path / "recipe.toml").write_text((f"[{section}]\n" if section else "") + f"{name} = {text}\n")
    with pytest.raises(ConfigError) as caught:
        resolve(RecommendSettings, tmp_path / "recipe.toml")
    assert len(str(caught.value)) < 500


def test_the_keys_of_the_estimates_are_settings():
    from hyperfocal.classify.memory import KEYS as TEXT_KEYS
    from hyperfocal.recommend.memory import KEYS as LOG_KEYS

    for kind, keys in ((RecommendSettings, LOG_KEYS), (ClassifySettings, TEXT_KEYS)):
        assert {*keys} <= flat_settings(kind()).keys()
