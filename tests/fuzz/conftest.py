import shutil
from collections import Counter
from functools import cache

import polars as pl
import pytest
from click.testing import CliRunner
from fuzz_targets import TARGETS

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.cli import main
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import to_toml
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.files import write_frame, write_lines
from hyperfocal.private.folders import VARIABLE
from hyperfocal.recommend.recommender import Recommender

QUICK = {"train.epochs": 2, "train.threads": 1, "train.checkpoint_seconds": 0.0}
SMALL = QUICK | {"model.embedding_width": 8, "model.layers": 1, "data.history": 4}
TREE = "id\tparent\tname\n1\t\tThings to do\n2\t1\tsport\n3\t1\tmusic\n4\t3\tjazz\n5\t1\tfood\n"
GRID = '[head]\nname = "linear"\n\n[grid]\ncaps = ["none", 6]\ngammas = ["none", 2]\nseeds = 2\n'


def pytest_configure(config):
    """Count the inputs of each target: name -> inputs, refused."""
    config.fuzzed = {}


def pytest_terminal_summary(terminalreporter, config):
    """Print how many inputs each target got."""
    if config.fuzzed:
        terminalreporter.section("fuzzed inputs")
        for name, counts in config.fuzzed.items():
            terminalreporter.line(f"{name:24} {counts['inputs']:8,} inputs, {counts['refused']:8,} refused")
        total = sum(counts["inputs"] for counts in config.fuzzed.values())
        failed = [name for name, counts in config.fuzzed.items() if not counts["passed"]]
        terminalreporter.line(f"{'all':24} {total:8,} inputs; failed: {', '.join(failed) or 'none'}")


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Return a folder with files to read, a small run of each job and a grid."""
    folder = tmp_path_factory.mktemp("fuzz")
    items = [chr(97 + number) for number in range(12)]
    log = pl.DataFrame(
        [(f"u{user}", items[(user + step) % 12], step) for user in range(12) for step in range(5)],
        schema=["user", "item", "order"], orient="row",
    )  # fmt: skip
    for name in ("log.csv", "log.tsv", "log.jsonl", "log.parquet"):
        write_frame(log.head(30), folder / name)
    events = log.head(30).rows()
    (folder / "log.dat").write_text("".join(f"{user}::{item}::{order}\n" for user, item, order in events))
    lines = "".join(f"{user}\t{item}\t{order}\n" for user, item, order in events)
    (folder / "log.inter").write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{lines}")
    (folder / "log.txt").write_text("".join(f"u{user} a b c d\n" for user in range(6)))
    table = pl.DataFrame({"item": items, "topic": ["x", "y z"] * 6, "size": range(12)})
    write_frame(table, folder / "items.csv")
    (folder / "tree.tsv").write_text(TREE)
    names = ["sport", "music", "jazz", "food"]
    rows = [
        {"id": f"d{n}", "text": f"{names[n % 4]} and {names[(n + 1) % 4]}", "labels": [names[n % 4]]} for n in range(40)
    ]
    write_lines(rows, folder / "texts.jsonl")
    write_frame(pl.DataFrame(rows).with_columns(pl.col("labels").list.join("|")), folder / "texts.csv")
    (folder / "texts.txt").write_text("".join(f"__label__{row['labels'][0]} {row['text']}\n" for row in rows))
    (folder / "fields.txt").write_text("".join(f"{row['id']}\t{row['labels'][0]}\t{row['text']}\n" for row in rows))
    (folder / "features.txt").write_text(
        "40 9 4\n" + "".join(f"{n % 4},{n % 3} {n % 8}:0.5 8:1\n" for n in range(1, 41))
    )
    (folder / "recommend.toml").write_text(to_toml(RecommendSettings()))
    (folder / "classify.toml").write_text(to_toml(ClassifySettings()))
    (folder / "grid.toml").write_text(GRID)
    Recommender(settings=SMALL).fit(log, items=table, out=folder / "recommend")
    settings = QUICK | {"data.taxonomy": str(folder / "tree.tsv"), "head.width": 4}
    MultiLabelClassifier(features="ngrams", settings=settings).fit(folder / "texts.jsonl", out=folder / "classify")
    for job, twin in (
        ("recommend", "served"),
        ("recommend", "verified"),
        ("recommend", "report"),
        ("classify", "report"),
    ):
        shutil.copytree(folder / job, folder / f"{job}_{twin}")
    grid = [
        "classify",
        "grid",
        folder / "texts.jsonl",
        "--out",
        folder / "grid",
        "--caps",
        "none,6",
        "--gammas",
        "none",
        "--seeds",
        "1",
    ]
    grid += [
        "--set",
        "features.kind=ngrams",
        "--set",
        "head.name=linear",
        "--set",
        "train.epochs=2",
        "--set",
        "train.threads=1",
    ]
    ended = CliRunner(env={VARIABLE: str(folder / "cache")}).invoke(main, [str(word) for word in grid])
    assert ended.exit_code == 0, ended.output
    for part in ("winner", "baseline"):
        shutil.rmtree(folder / "grid" / part, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def target_of(material):
    """Return what makes a target, once."""
    return cache(lambda name: TARGETS[name](material))


@pytest.fixture
def counts(request):
    """Return the counts of the target of a test."""
    return request.config.fuzzed.setdefault(request.node.callspec.params["name"], Counter())
