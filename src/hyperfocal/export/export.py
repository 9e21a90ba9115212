"""A run as files that other programs use: an ONNX folder with its own predict.py, or plain weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.export.facts import (
    Arrays,
    counted_arrays,
    head_weights,
    label_settings,
    ngram_facts,
    ranking_settings,
    ranking_weights,
)
from hyperfocal.export.graphs import need, write_encoder, write_head, write_ranking
from hyperfocal.export.texts import PREDICT, readme
from hyperfocal.models.baselines import Baseline
from hyperfocal.models.sentence_encoder import load_encoder
from hyperfocal.recommend.ranker import PARTNER
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.storage.run_folder import DATA, ENCODER, RunFolder

SETTINGS = "settings.json"
MODULES = {  # of this package -> what each is called in an exported folder
    "recommend": {"recommender": "recommender", "counting": "counting"},
    "classify": {"classifier": "classifier", "ngrams": "ngrams"},
}


def export_onnx(run: Path, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Write model.onnx, what goes with it, and a predict.py that needs onnxruntime and numpy; return what to know.

    Args:
        run: folder of a run of either job.
        folder: to write; it appears whole or not at all.
        overwrite: whether an earlier export there is replaced.

    Raises:
        RunError: no run, a damaged one, or `folder` holds something else or cannot be written.
        ConfigError: the extra `export` is not installed.
    """
    need("onnx", "onnxscript", "onnxruntime")
    refuse_taken(folder, overwrite)
    trained, notes = load_run(run), list[str]()

    def write(aside: Path) -> None:
        if isinstance(trained, Recommender):
            settings = _write_ranking(trained, aside)
        else:
            settings = _write_labels(trained, aside, run, notes)
        _write_texts(settings, trained, aside)
        for name, called in MODULES[settings["job"]].items():
            (aside / f"{called}.py").write_text(_standalone(name, settings["job"]), encoding="utf-8")
        (aside / "predict.py").write_text(PREDICT[settings["job"]], encoding="utf-8")
        (aside / "README.md").write_text(readme(settings, onnx=True), encoding="utf-8")

    _write_whole(folder, write)
    return notes


def export_plain(run: Path, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Write model.safetensors, plain weights, and a README.md with the formulas; else as `export_onnx`.

    Raises:
        RunError: as in `export_onnx`.
    """
    refuse_taken(folder, overwrite)
    trained = load_run(run)

    def write(aside: Path) -> None:
        settings, arrays = _plain_facts(trained)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, aside / "model.safetensors")
        _write_texts(settings, trained, aside)
        shapes = {name: array.shape for name, array in arrays.items()}
        (aside / "README.md").write_text(readme(settings, onnx=False, shapes=shapes), encoding="utf-8")

    _write_whole(folder, write)
    return []


def load_run(path: Path) -> Recommender | MultiLabelClassifier:
    """Return what a run of either job holds.

    Raises:
        RunError: no run, an unfinished or damaged one.
        ConfigError: the encoder of the run is not installed.
    """
    identity = RunFolder.open(path).read_json(DATA)
    job = identity.get("job", "recommend") if isinstance(identity, dict) else ""
    return Recommender.load(path) if job == "recommend" else MultiLabelClassifier.load(path)


def refuse_taken(folder: Path, overwrite: bool) -> None:
    """Make sure that an export may be written here.

    Raises:
        RunError: it is a file, or holds something; an earlier export may be overwritten, nothing else.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder. Choose another")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (all((folder / name).is_file() for name in (SETTINGS, "vocabulary.json", "README.md"))):
        raise RunError(f"{folder}: it holds files that are no export. Choose another folder")
    if not overwrite:
        raise RunError(f"{folder}: holds an export already. Replace it with --overwrite, or choose another folder")


def _plain_facts(trained: Recommender | MultiLabelClassifier) -> tuple[dict[str, Any], Arrays]:
    if isinstance(trained, Recommender):
        return ranking_settings(trained), ranking_weights(trained)
    return label_settings(trained, "apart"), head_weights(trained)


def _write_ranking(recommender: Recommender, folder: Path) -> dict[str, Any]:
    settings, model = ranking_settings(recommender), recommender.model_
    if settings["weight"] < 1:
        write_ranking(model, folder / "model.onnx", settings["history"])
    if settings["weight"] > 0:
        counted = model if isinstance(model, Baseline) else recommender.baselines_[PARTNER]
        arrays: Any = counted_arrays(counted)
        np.savez(folder / "counts.npz", **arrays)
    return settings


def _write_labels(classifier: MultiLabelClassifier, folder: Path, run: Path, notes: list[str]) -> dict[str, Any]:
    source, width = classifier.features_.encoder, 0
    encoder = "apart"
    if source is not None:
        tuned = classifier.encoder_ is not None
        model = load_encoder(str(run / ENCODER) if tuned else source.location, device="cpu")
        width = int(model.get_embedding_dimension())
        if why := _encoder_fault(model, folder):
            notes.append(f"The sentence encoder was not exported ({why}): predict.py takes vectors of the texts.")
        else:
            encoder = "exported"
    write_head(classifier.head_, folder / "model.onnx", width)
    return label_settings(classifier, encoder)


def _encoder_fault(model: Any, folder: Path) -> str:
    """Write encoder.onnx and tokenizer.json, or return why that is not possible."""
    fast = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    if fast is None:
        return "its tokenizer does not run without torch"
    try:
        write_encoder(model, folder / "encoder.onnx")
    except ConfigError:
        raise
    except Exception as error:  # an encoder is anybody's code, and may do what no graph can hold
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    tokenizer = type(fast).from_str(fast.to_str())
    tokenizer.enable_truncation(int(model.max_seq_length))
    tokenizer.enable_padding(pad_id=model.tokenizer.pad_token_id or 0, pad_token=model.tokenizer.pad_token or "[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    return ""


def _write_texts(settings: dict[str, Any], trained: Recommender | MultiLabelClassifier, folder: Path) -> None:
    """Write settings.json, vocabulary.json and, for labels, thresholds.json."""
    _write_json(folder / SETTINGS, settings)
    names = trained.vocabulary_.names
    if isinstance(trained, Recommender):
        _write_json(folder / "vocabulary.json", {"items": names})
        return
    _write_json(folder / "vocabulary.json", {"labels": names, "ngrams": ngram_facts(trained)})
    _write_json(folder / "thresholds.json", trained.decisions_.to_json(names))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _standalone(name: str, job: str) -> str:
    """Return a module of this package as it stands in an exported folder, beside the others."""
    text = Path(__file__).with_name("standalone").joinpath(f"{name}.py").read_text(encoding="utf-8")
    for other, called in MODULES[job].items():
        text = text.replace(f"hyperfocal.export.standalone.{other} import", f"{called} import")
    return text


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder aside, and put it in place of `folder`.

    Raises:
        RunError: it cannot be written.
    """
    path = folder.absolute()
    fresh, old = (path.with_name(f".{os.getpid()}.{path.name}.{part}") for part in ("new", "old"))
    kept = ""
    try:
        fresh.mkdir(parents=True)
        write(fresh)
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except BaseException:
            if old.exists():
                kept = f" The earlier export is {old}."
                old.rename(path)
                kept = ""
            raise
    except (OSError, SafetensorError) as error:
        message = f"{folder}: cannot be written: {error}.{kept} Free some space or choose another folder"
        raise RunError(message) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
