"""No small file ends a command by a signal, a traceback or a hang: each ends in success or in one error, with 4 GiB."""

import pytest

from bombs import LARGE, LOGS, RECIPES, run_limited
from command_cases import done, rows, write
from log_cases import log

TEXTS = ("--text", "title", "--features", "ngrams")
QUICK = ("keys.jsonl", "field.csv.gz", "nested.jsonl", "number.jsonl", "rows.parquet", "short-rows.csv", "zeros.csv.gz")
AT_ONCE = 5  # commands of one process: refusing a file that unpacks to gigabytes takes 20 s, and 100 s in blocks
FEW = ("--set", "train.epochs=1", "--set", "train.threads=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a log, documents, and a run of each."""
    folder = tmp_path_factory.mktemp("bombs")
    log().write_csv(folder / "log.csv")
    write(folder / "docs.jsonl", rows())
    done("recommend", "fit", folder / "log.csv", "--out", folder / "ranks", "--model", "markov", *FEW)
    done("classify", "fit", folder / "docs.jsonl", "--out", folder / "labels", *TEXTS, *FEW)
    return folder


def every_reader(folder, file):
    """Return every command that reads a file of rows."""
    log, docs, ranks, labels = (folder / name for name in ("log.csv", "docs.jsonl", "ranks", "labels"))
    out = folder / "out"
    return [
        ["inspect", file],
        ["recommend", "predict", ranks, file, "--out", out / "p.csv"],
        ["recommend", "predict", ranks, file, "--out", out / "b.csv", "--block", 1_000],
        ["recommend", "evaluate", ranks, file],
        ["recommend", "evaluate", ranks, log, "--truth", file],
        ["recommend", "update", ranks, file, "--out", out / "u"],
        ["recommend", "fit", file, "--out", out / "f", "--model", "markov"],
        ["recommend", "fit", log, "--valid", file, "--out", out / "v", "--model", "markov"],
        ["recommend", "fit", log, "--items", file, "--out", out / "i", *FEW],
        ["recommend", "grid", file, "--out", out / "g", "--encoders", "markov", "--seeds", "1"],
        ["classify", "predict", labels, file, "--out", out / "p.jsonl"],
        ["classify", "predict", labels, file, "--out", out / "b.jsonl", "--block", 1_000],
        ["classify", "evaluate", labels, file],
        ["classify", "fit", file, "--out", out / "c", "--features", "ngrams", *FEW],
        ["classify", "fit", docs, "--taxonomy", file, "--out", out / "t", *TEXTS, *FEW],
    ]


def check(commands, names):
    codes, error = [], ""
    for start in range(0, len(commands), AT_ONCE):  # each process has its own deadline
        more, error = run_limited(commands[start : start + AT_ONCE])
        codes += more
        if len(codes) < min(start + AT_ONCE, len(commands)):
            break
    assert len(codes) == len(commands), f"{names[len(codes)]}: {error}"
    assert {*codes} <= {0, 2}, [name for name, code in zip(names, codes, strict=True) if code not in (0, 2)]
    print(f"{len(commands)} commands on {len({*names})} files with 4 GiB: {codes.count(2)} refused")


def test_a_bomb_is_read_or_refused(folder):
    commands = []
    for number, name in enumerate(QUICK):
        (folder / name).write_bytes(LOGS[name]())
        commands += [["inspect", folder / name], every_reader(folder, folder / name)[1 + number]]
    check(commands, [name for name in QUICK for _ in "ab"])


def test_a_bomb_as_a_recipe(folder):
    for name, content in RECIPES.items():
        (folder / name).write_bytes(content())
    fit = ["recommend", "fit", folder / "log.csv", "--out", folder / "recipe", "--recipe"]
    check([[*fit, folder / name] for name in RECIPES], [*RECIPES])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LOGS | LARGE))
def test_every_command_on_every_bomb(folder, name):
    (folder / name).write_bytes((LOGS | LARGE)[name]())
    commands = every_reader(folder, folder / name)
    if name.startswith("lines.txt"):  # half a billion documents: predicted block by block, which takes hours
        commands = [command for command in commands if not (command[0] == "classify" and "--block" in command)]
    check(commands, [f"{name}: {' '.join(map(str, command[:3]))}" for command in commands])
    (folder / name).unlink()
