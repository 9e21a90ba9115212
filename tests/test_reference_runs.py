"""Compare five small trainings with stored numbers, so that a change of the source changes no result unnoticed.

    python tests/test_reference_runs.py FOLDER            write the five runs with all their files to FOLDER
    python tests/test_reference_runs.py --same ONE OTHER  compare two such folders byte by byte
    python tests/test_reference_runs.py --store           replace the stored numbers in tests/reference

The tests compare weights, predictions, metrics, thresholds and the grid's table to 1e-5. `--same` is stricter: it
compares two commits on one machine, all bytes except those that depend on the time. Write one folder with each commit's
`src` in PYTHONPATH. Use `--store` only for an intended change of results, and say in the commit why numbers changed.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

import hyperfocal
from hyperfocal import MultiLabelClassifier, Recommender
from reference_cases import (
    ITEMS,
    NEW_ITEMS,
    command,
    differences,
    documents,
    read_rows,
    write_documents,
    write_items,
    write_log,
)

STORED = Path(__file__).parent / "reference"
TRAINING = {"train.epochs": 3, "train.batch_size": 16, "train.threads": 1, "data.valid_fraction": 0.3}
NETWORK = TRAINING | {
    "train.device": "cpu",
    "train.learning_rate": 0.01,
    "train.warmup_steps": 5,
    "model.embedding_width": 8,
    "data.history": 4,
}
TEXTS = TRAINING | {"features.max_features": 200, "head.width": 8, "train.sparse_learning_rate": 20.0}

TIMES = {"seconds", "train_seconds", "valid_seconds", "peak_bytes"}  # keys whose values differ from run to run
TIMED = {"history.jsonl", "evidence.json", "manifest.json", "table.json", "table.csv"}  # files that hold such keys
# Softmax does not change if all its inputs move together. So the biases of attention's keys, and the bias that all
# items share, have no effect and a gradient of rounding errors, which Adam scales up: another processor, other numbers.
NOISY = ("project.bias", "features.shared")
NOT_COMPARED = {"report.html", "grid.sqlite", "table.md"}  # they hold times in another form; TIMED has their numbers


def concat_mlp(data: Path, out: Path) -> None:
    """Fit the original challenge's network with focal loss."""
    settings = NETWORK | {"loss.name": "focal", "loss.gamma": 2.0, "loss.cap": 1.2}
    Recommender(model="concat_mlp", seed=0, settings=settings).fit(data / "log.csv", out=out)
    command("recommend", "predict", out, data / "log.csv", "--out", out / "predictions.csv")


def transformer(data: Path, out: Path) -> None:
    """Fit a transformer that reads a table of items and is blended with decayed Markov."""
    recommender = Recommender(model="transformer", seed=0, settings=NETWORK | {"model.blend": True})
    recommender.fit(pl.read_csv(data / "log.csv"), items=pl.read_csv(data / "items.csv"), out=out)
    command("recommend", "predict", out, data / "log.csv", "--out", out / "predictions.csv")


def update(data: Path, out: Path) -> None:
    """Continue from the transformer with new events, users and items."""
    fitted = Recommender.load(out.parent / "transformer")
    fitted.update(data / "new_log.csv", items=data / "new_items.csv", epochs=2).save(out)
    command("recommend", "predict", out, data / "new_log.csv", "--out", out / "predictions.csv")


def classifier(data: Path, out: Path) -> None:
    """Fit on n-grams with focal loss and capped weights, and tune a threshold per label on held-out documents."""
    rows = documents(240)
    classifier = MultiLabelClassifier(
        features="ngrams", loss="focal", gamma=2.0, cap=4.0, decide="per_label", seed=0, settings=TEXTS
    )
    classifier.fit([row["text"] for row in rows], [row["labels"] for row in rows], out=out)
    command("classify", "predict", out, data / "documents.jsonl", "--out", out / "predictions.jsonl")


def grid(data: Path, out: Path) -> None:
    """Train two class-weight caps x two focal gammas on n-grams."""
    settings = TEXTS | {"features.kind": "ngrams", "seed": 0}
    axes = ("--caps", "none,4", "--gammas", "none,2", "--seeds", 1)
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    with TemporaryDirectory() as cache, patch.dict(os.environ, HYPERFOCAL_CACHE=cache):
        command("classify", "grid", data / "documents.jsonl", "--out", out, *axes, *given)
    command("classify", "predict", out / "winner", data / "documents.jsonl", "--out", out / "predictions.jsonl")


RUNS = {run.__name__: run for run in (concat_mlp, transformer, update, classifier, grid)}  # `update` needs the second


def write_data(folder: Path) -> Path:
    """Write all input files to a folder; return it."""
    write_log(folder / "log.csv", 90)
    write_log(folder / "new_log.csv", 40, items=ITEMS[::2] + NEW_ITEMS, seed=1)  # u0 to u39 are known
    with (folder / "new_log.csv").open("a") as file:
        file.writelines(write_log(folder / "new_users.csv", 30, first="v", seed=2).read_text().splitlines(True)[1:])
    write_items(folder / "items.csv", ITEMS)
    write_items(folder / "new_items.csv", NEW_ITEMS)
    write_documents(folder / "documents.jsonl", documents(240))
    return folder


def write_runs(folder: Path) -> Path:
    """Train the five runs into a folder; return it."""
    data = write_data(folder / "data")
    for name, run in RUNS.items():
        run(data, folder / name)
    return folder


def read_values(path: Path) -> object:
    """Return the values of a JSON, JSON-lines or CSV file."""
    return json.loads(path.read_text()) if path.suffix == ".json" else read_rows(path)


def without_times(value: object, dropped: set[str] = TIMES) -> object:
    """Return the value without the keys that hold seconds or bytes of memory."""
    if isinstance(value, dict):
        return {key: without_times(inner, dropped) for key, inner in value.items() if key not in dropped}
    return [without_times(inner, dropped) for inner in value] if isinstance(value, list) else value


def without_prose(value: object) -> object:
    """Return the value without its sentences, which may be reworded: every text with a space in it."""
    if isinstance(value, dict):
        return {key: without_prose(inner) for key, inner in value.items() if not is_prose(inner)}
    return [without_prose(inner) for inner in value if not is_prose(inner)] if isinstance(value, list) else value


def is_prose(value: object) -> bool:
    return isinstance(value, str) and " " in value


def summarize_tensors(path: Path) -> dict[str, object]:
    """Return for each tensor of a file its shape, first and last numbers, sums, and one projection."""
    return {name: summarize(array, noisy=name.endswith(NOISY)) for name, array in load_file(path).items()}


def summarize(array: np.ndarray, *, noisy: bool) -> dict[str, object]:
    """Return the summary of one tensor; of a noisy one only the shape and the first numbers, which are exact."""
    flat = array.reshape(-1)
    summary = {"shape": list(array.shape), "first": flat[:3].tolist()}
    if noisy:
        return summary
    totals = {"sum": flat.sum(dtype=np.float64), "absolute": abs(flat).sum(dtype=np.float64)}
    totals["projection"] = flat.astype(np.float64) @ np.cos(np.arange(len(flat)))
    return summary | {"last": flat[-3:].tolist()} | {name: float(total) for name, total in totals.items()}


def measure(run: Path) -> dict[str, object]:
    """Return the numbers of a run or a grid: file -> summaries of tensors, or values without times and prose."""
    tensors = [path for path in (run / "model.safetensors", run / "baselines.safetensors") if path.exists()]
    names = ("vocabulary.json", "metrics.json", "history.jsonl", "thresholds.json", "table.json", "table.csv")
    texts = [run / name for name in names if (run / name).exists()]
    return (
        {path.name: summarize_tensors(path) for path in tensors}
        | {path.name: without_prose(without_times(read_values(path))) for path in texts}
        | {"predictions": read_rows(next(run.glob("predictions.*")))[::3]}  # a third of the rows keeps the files small
    )


def rounded(value: object) -> object:
    """Return the value with floats of 9 digits, to keep the stored files small."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def store(folder: Path) -> None:
    """Replace the stored numbers by those of the runs in a folder."""
    for name in RUNS:
        text = json.dumps(rounded(measure(folder / name)), indent=0, sort_keys=True)
        (STORED / f"{name}.json").write_text(text + "\n")


def read_comparable(path: Path) -> object:
    """Return what `--same` compares: bytes, or the values of a file except times, or the tensors of a checkpoint."""
    if path.name in TIMED:
        return without_times(read_values(path), TIMES | TIMED)  # the manifest has a checksum for each file
    if path.parent.name == "checkpoints":
        return {name: (array.shape, array.tobytes()) for name, array in load_file(path).items()}
    return path.read_bytes()


def compared_files(folder: Path) -> set[str]:
    """Return the relative names of all files that `--same` compares."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_COMPARED)
    return {path.relative_to(folder).as_posix() for path in paths}


def different_files(one: Path, other: Path) -> list[str]:
    """Return a line for each file of two folders that is only in one, or not the same in both."""
    names = {folder: compared_files(folder) for folder in (one, other)}
    lines = [f"{name}: only in one folder" for name in names[one] ^ names[other]]
    for name in names[one] & names[other]:
        first, second = (read_comparable(folder / name) for folder in (one, other))
        if first != second:
            lines.append(f"{name}: differs")
    return sorted(lines)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with the five runs."""
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", RUNS)
def test_numbers_are_as_stored(runs, name):
    stored = json.loads((STORED / f"{name}.json").read_text())
    assert list(differences(stored, measure(runs / name), "")) == []


def test_a_copy_is_the_same(runs, tmp_path):
    assert different_files(runs, shutil.copytree(runs, tmp_path / "copy")) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("grid/winner/model.safetensors", b"\x00", b"\x01"),
        ("concat_mlp/history.jsonl", b'"loss": ', b'"loss": 1'),
        ("grid/table.csv", b"cap_4.0", b"cap_5.0"),
        ("update/manifest.json", b'"config.toml": "', b'"config.toml": "0'),
    ],
)
def test_a_changed_file_is_not_the_same(runs, tmp_path, name, old, new):
    copy = shutil.copytree(runs, tmp_path / "copy")
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[::-1].replace(old[::-1], new[::-1], 1)[::-1])
    assert different_files(runs, copy) == [f"{name}: differs"]


def test_other_seconds_are_the_same(runs, tmp_path):
    copy = shutil.copytree(runs, tmp_path / "copy")
    history = copy / "classifier" / "history.jsonl"
    history.write_text(history.read_text().replace('"train_seconds": 0', '"train_seconds": 7'))
    assert different_files(runs, copy) == []


def main() -> int:
    """Write, store or compare runs; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("folder", nargs="?", type=Path, help="new folder for the five runs")
    action.add_argument("--same", nargs=2, type=Path, metavar=("ONE", "OTHER"), help="compare two such folders")
    action.add_argument("--store", action="store_true", help="replace the numbers in tests/reference")
    options = parser.parse_args()
    if options.same:
        lines = different_files(*options.same)
        print("\n".join(lines) or f"The same: {len(compared_files(options.same[0]))} files.")
        return int(bool(lines))
    with TemporaryDirectory() as temporary:
        folder = write_runs(options.folder or Path(temporary) / "runs")
        if options.store:
            store(folder)
    print(f"Trained with {hyperfocal.__file__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
