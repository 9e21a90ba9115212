"""The commands that write, each with the folder that it begins with and what may follow it. See README.md.

In a command, BOX is the watched folder and GOOD has data and earlier outputs, made once. `old` things are of another
training than what the commands write, so that a mixture shows.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from crash_shim import Lab

FAST = "--set train.epochs=2 --set train.threads=1 --set train.patience=0 --set train.checkpoint_seconds=0"
SMALL = f"{FAST} --set train.batch_size=16 --set model.embedding_width=8"
NGRAMS = f"{FAST} --set train.batch_size=16 --set features.kind=ngrams --set head.width=4"
FIT = f"recommend fit GOOD/log.csv --out BOX/run {SMALL}"
TEXTS = f"classify fit GOOD/texts.jsonl --out BOX/run {NGRAMS}"
GRID = f"recommend grid GOOD/log.csv --out BOX/grid --encoders mean,markov --losses softmax,bce --seeds 1 {SMALL}"
LABEL_GRID = (
    f"classify grid GOOD/texts.jsonl --test GOOD/more.jsonl --out BOX/grid --caps none,7 --gammas none "
    f"--seeds 1 {NGRAMS}"
)
BLOCKS = "recommend predict GOOD/old GOOD/log.csv --block 60"


@dataclass(frozen=True)
class Case:
    """A command that writes.

    Attributes:
        argv: the command.
        kind: of the subject, which decides what must be true at every point; see `crash_checks.CHECKS`.
        subject: what it writes, relative to BOX.
        begin: (path in GOOD, path in BOX) copied before it.
        again: the command that continues or repeats it; "": the same.
        absent: calls that the file system does not know: they fail with EINVAL, always.
        slow: whether even the count takes seconds: not in the default subset.
        scripts: whether the scripts of reports are in the cache.
    """

    argv: str
    kind: str
    subject: str
    begin: tuple[tuple[str, str], ...] = ()
    again: str = ""
    absent: tuple[str, ...] = ()
    slow: bool = False
    scripts: bool = True


OLD = (("old", "run"),)
OLD_LABELS = (("old_labels", "run"),)
EXPORT = (("plain", "export"), ("old", "run"))
NO_EXCHANGE = ("renameat2",)
CASES = {
    "recommend fit": Case(FIT, "fit", "run", again=f"{FIT} --resume"),
    "recommend fit, many steps": Case(
        f"{FIT} --set train.batch_size=2", "fit", "run", again=f"{FIT} --set train.batch_size=2 --resume", slow=True
    ),
    "recommend fit, streamed": Case(
        f"{FIT} --set data.stream=on", "fit", "run", again=f"{FIT} --set data.stream=on --resume"
    ),
    "recommend fit, markov": Case(f"{FIT} --model markov", "fit", "run", again=f"{FIT} --model markov --resume"),
    "classify fit": Case(TEXTS, "fit", "run", again=f"{TEXTS} --resume"),
    "classify fit, folds and taxonomy": Case(
        f"{TEXTS} --taxonomy GOOD/tree.tsv --set train.folds=2", "fit", "run",
        again=f"{TEXTS} --taxonomy GOOD/tree.tsv --set train.folds=2 --resume",
    ),
    "recommend fit --resume": Case(f"{FIT} --resume", "fit", "run", (("cut", "run"),)),
    "classify fit --resume": Case(f"{TEXTS} --resume", "fit", "run", (("cut_labels", "run"),)),
    "recommend fit --overwrite": Case(f"{FIT} --overwrite", "overwrite", "run", OLD),
    "classify fit --overwrite": Case(f"{TEXTS} --overwrite", "overwrite", "run", OLD_LABELS),
    "recommend update": Case("recommend update BOX/run GOOD/more.csv --epochs 1", "update", "run", OLD),
    "recommend update, no exchange": Case(
        "recommend update BOX/run GOOD/more.csv --epochs 1", "update", "run", OLD, absent=NO_EXCHANGE
    ),
    "recommend update --out": Case("recommend update GOOD/old GOOD/more.csv --epochs 1 --out BOX/run", "new", "run"),
    "classify update": Case("classify update BOX/run GOOD/others.jsonl --epochs 1", "update", "run", OLD_LABELS),
    "classify update --out": Case(
        "classify update GOOD/old_labels GOOD/others.jsonl --epochs 1 --out BOX/run", "new", "run"
    ),
    "save over a run": Case("!save GOOD/new BOX/run", "replace", "run", OLD),
    "save over a run, no exchange": Case("!save GOOD/new BOX/run", "replace", "run", OLD, absent=NO_EXCHANGE),
    "save over a run of labels": Case("!save GOOD/new_labels BOX/run", "replace", "run", OLD_LABELS),
    "predict": Case(
        "recommend predict GOOD/old GOOD/log.csv --out BOX/out.csv", "file", "out.csv", (("note", "out.csv"),)
    ),
    "classify predict": Case(
        "classify predict GOOD/old_labels GOOD/texts.jsonl --out BOX/out.parquet", "file", "out.parquet",
        (("note", "out.parquet"),),
    ),
    "predict --block": Case(
        f"{BLOCKS} --out BOX/out.csv", "file", "out.csv", (("note", "out.csv"),),
        again=f"{BLOCKS} --out BOX/out.csv --resume",
    ),
    "predict --block, gz": Case(
        f"{BLOCKS} --out BOX/out.csv.gz", "file", "out.csv.gz", again=f"{BLOCKS} --out BOX/out.csv.gz --resume"
    ),
    "predict --block, parquet": Case(
        f"{BLOCKS} --out BOX/out.parquet", "file", "out.parquet", again=f"{BLOCKS} --out BOX/out.parquet --resume"
    ),
    "export --safetensors": Case("export GOOD/new --safetensors BOX/export --overwrite", "folder", "export", EXPORT),
    "export --safetensors, no exchange": Case(
        "export GOOD/new --safetensors BOX/export --overwrite", "folder", "export", EXPORT, absent=NO_EXCHANGE
    ),
    "export --safetensors, new": Case(
        "export GOOD/new_labels --safetensors BOX/export", "folder", "export",
        again="export GOOD/new_labels --safetensors BOX/export --overwrite",
    ),
    "export --onnx": Case("export GOOD/new --onnx BOX/export --overwrite", "folder", "export", EXPORT, slow=True),
    "report": Case("report BOX/run", "file", "run/report.html", OLD),
    "report, empty cache": Case("report BOX/run", "file", "run/report.html", OLD, scripts=False),
    "report of labels": Case("report BOX/run", "file", "run/report.html", OLD_LABELS),
    "verify": Case("verify BOX/run", "nothing", "run", OLD),
    "recommend grid": Case(GRID, "grid", "grid", slow=True),
    "recommend grid, two workers": Case(f"{GRID} --workers 2", "grid", "grid", again=f"{GRID} --workers 1", slow=True),
    "classify grid, winner and test": Case(LABEL_GRID, "grid", "grid", slow=True),
    "demo": Case("demo --out BOX/demo --users 80 --challenges 30 --epochs 1", "demo", "demo", slow=True),
    "demo classify": Case(
        "demo classify --out BOX/demo --documents 1000 --workers 1", "demo", "demo", slow=True
    ),
}  # fmt: skip


def make_good(lab: Lab, good: Path) -> None:
    """Write data and earlier outputs of recommenders to a folder."""
    good.mkdir(parents=True)
    rows = [(f"u{user}", f"i{(user + step) % 9}", step) for user in range(30) for step in range(6)]
    log = pl.DataFrame(rows, schema=["user", "item", "order"], orient="row")
    log.write_csv(good / "log.csv")
    log.with_columns(pl.col("order") + 6, item=pl.col("item").str.replace("8", "new")).write_csv(good / "more.csv")
    (good / "note").write_text("earlier predictions\n")
    done(lab, good, f"recommend fit GOOD/log.csv --out GOOD/old {SMALL} --seed 1 --history 4")
    done(lab, good, f"recommend fit GOOD/log.csv --out GOOD/new {SMALL}")
    done(lab, good, "export GOOD/old --safetensors GOOD/plain")
    cut(good / "new", good / "cut")
    (good / "old" / "notes of the user.txt").write_text("do not touch\n")
    (good / "scripts").mkdir()
    for script in [*(good / "cache").rglob("script.npy")]:  # of reports: made once, which takes a second
        script.parent.rename(good / "scripts" / script.parent.name)


def make_labels(lab: Lab, good: Path) -> None:
    """Write texts and earlier outputs of classifiers, if they are not there."""
    if (good / "texts.jsonl").exists():
        return
    words = ("sport", "music", "food")
    for name, number in (("texts", 12), ("more", 5)):
        texts = [{"text": f"{word} and {word}s {n}", "labels": [word]} for n in range(number) for word in words]
        (good / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    others = [{"text": f"{word} with {word}s {n}", "labels": [word]} for n in range(9) for word in (*words, "film")]
    (good / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    tree = "id\tparent\tname\nall\t\tAll\nsport\tall\tSport\nmusic\tall\tMusic\nfood\tall\tFood\n"
    (good / "tree.tsv").write_text(tree)
    done(lab, good, f"classify fit GOOD/texts.jsonl --out GOOD/old_labels {NGRAMS} --seed 1")
    done(lab, good, f"classify fit GOOD/texts.jsonl --out GOOD/new_labels {NGRAMS}")
    cut(good / "new_labels", good / "cut_labels")
    (good / "old_labels" / "notes of the user.txt").write_text("do not touch\n")


def cut(whole: Path, unfinished: Path) -> None:
    """Copy a run, as it was after a kill in its last epoch."""
    shutil.copytree(whole, unfinished)
    for path in unfinished.iterdir():
        if path.name not in ("config.toml", "data.json", "checkpoints"):
            path.unlink()
    (unfinished / "checkpoints" / "previous.safetensors").replace(unfinished / "checkpoints" / "last.safetensors")


def done(lab: Lab, good: Path, command: str) -> None:
    ended = lab.run(words(command, good, good), good)
    assert ended.code == 0, ended.said


def words(command: str, box: Path, good: Path) -> list[str]:
    """Return the words of a command with its folders."""
    return [word.replace("BOX", str(box)).replace("GOOD", str(good)) for word in command.split()]


def begin(case: Case, box: Path, good: Path) -> None:
    """Make the folder that a case begins with."""
    shutil.rmtree(box, ignore_errors=True)
    box.mkdir(parents=True)
    (box / "home").mkdir()
    (box / "file of the user.txt").write_text("do not touch\n")
    if case.scripts:
        shutil.copytree(good / "scripts", box / "cache")
    for source, target in case.begin:
        copy = shutil.copytree if (good / source).is_dir() else shutil.copy2
        copy(good / source, box / target)
