"""Export a run for other programs: an ONNX folder with a predict.py, or plain weights with their formulas."""

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
    counted_arrays,
    head_weights,
    label_settings,
    label_vectors,
    linear_settings,
    ngram_facts,
    opinion_facts,
    ranking_settings,
    ranking_weights,
)
from hyperfocal.export.graphs import need, write_encoder, write_head, write_ranking
from hyperfocal.export.readme import readme
from hyperfocal.models.baselines import Baseline
from hyperfocal.models.sentence_encoder import load_encoder
from hyperfocal.recommend.blend import NETWORK
from hyperfocal.recommend.ranker import BLEND, PARTNER
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.serve.live import job_of
from hyperfocal.storage.exchange import restore, whole_folder
from hyperfocal.storage.lock import LOCK, FolderLock
from hyperfocal.storage.run_folder import ENCODER, RunFolder, read_stable

SETTINGS = "settings.json"
HERE = Path(__file__).parent
PROGRAMS = {"recommend": "recommender.py", "classify": "classifier.py"}  # in standalone/


def export_onnx(run: Path, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Write model.onnx, its data files, and a predict.py that needs onnxruntime and numpy; return notes for the user.

    Args:
        run: run folder of either job.
        folder: folder to write; it appears whole or not at all.
        overwrite: whether to replace an earlier export in `folder`.

    Raises:
        RunError: no run, a damaged one, or `folder` holds other files or cannot be written.
        ConfigError: the extra `export` is not installed; the run reads fields or vectors.
    """
    need("onnx", "onnxscript", "onnxruntime")
    check_export_place(folder, overwrite)
    return read_stable(run, lambda source: _export_onnx(source, folder, overwrite))


def _export_onnx(source: RunFolder, folder: Path, overwrite: bool) -> list[str]:
    before, run = source.state(), source.path
    trained, notes = _load_exportable(run), list[str]()

    def write(aside: Path) -> None:
        if isinstance(trained, Recommender):
            settings = _write_ranking(trained, aside)
        else:
            settings = _write_labels(trained, aside, run, notes)
        _write_texts(settings, trained, aside)
        program = PROGRAMS[settings["job"]]
        shutil.copyfile(HERE / "standalone" / program, aside / program)
        shutil.copyfile(HERE / "templates" / f"predict_{settings['job']}.py", aside / "predict.py")
        (aside / "README.md").write_text(readme(settings), encoding="utf-8")
        if source.state() != before:  # the encoder is read again; the caller exports the new run then
            raise RunError(f"run {run}: was replaced while it was exported. Export it again")

    _write_whole(folder, overwrite, write)
    return notes


def export_plain(run: Path, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Write model.safetensors with plain weights and a README.md with their formulas; return notes as `export_onnx`.

    Arguments and errors are those of `export_onnx`.

    Raises:
        ConfigError: the run is of user_knn, which has no weights.
    """
    check_export_place(folder, overwrite)
    trained = _load_exportable(run)
    if isinstance(trained, Recommender) and trained.settings_.model.name == "user_knn":
        raise ConfigError(
            f"run {run}: the model user_knn searches the training users and has no weights. Export it with `onnx=`"
        )

    def write(aside: Path) -> None:
        if isinstance(trained, Recommender):
            settings, arrays = linear_settings(trained), ranking_weights(trained)
        else:
            settings, arrays = label_settings(trained, "apart"), head_weights(trained) | label_vectors(trained)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, aside / "model.safetensors")
        _write_texts(settings, trained, aside)
        shapes = {name: array.shape for name, array in arrays.items()}
        (aside / "README.md").write_text(readme(settings, shapes), encoding="utf-8")

    _write_whole(folder, overwrite, write)
    return _blend_notes(trained) if isinstance(trained, Recommender) else []


def load_run(path: Path) -> Recommender | MultiLabelClassifier:
    """Return the estimator of a run of either job.

    Raises:
        RunError: no run, an unfinished or damaged one.
        ConfigError: the encoder of the run is not installed.
    """
    ranks = job_of(RunFolder.open(path)) == "recommend"
    return Recommender.load(path) if ranks else MultiLabelClassifier.load(path)


def _load_exportable(path: Path) -> Recommender | MultiLabelClassifier:
    """Return the estimator of a run; errors as in `load_run`.

    Raises:
        ConfigError: the run reads columns or a matrix.
    """
    trained = load_run(path)
    if isinstance(trained, MultiLabelClassifier) and trained.features_.columns is not None:
        what = "fields or vectors" if trained.features_.columns.matrix is None else "a feature matrix"
        raise ConfigError(
            f"run {path}: reads {what}, which an export cannot encode. Use the run itself, or fit on texts alone"
        )
    return trained


def check_export_place(folder: Path, overwrite: bool) -> None:
    """Raise RunError for a file, a folder with other files than an export, and an export not to be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, not a folder. Choose another")
    if not folder.is_dir() or not any(entry.name != LOCK for entry in folder.iterdir()):
        return
    if not all((folder / name).is_file() for name in (SETTINGS, "vocabulary.json", "README.md")):
        raise RunError(f"{folder} holds files that are not an export. Choose another folder")
    if not overwrite:
        raise RunError(f"{folder} holds an export already. Replace it with `overwrite=True`, or choose another folder")


def _blend_notes(recommender: Recommender) -> list[str]:
    """Return a note if the run ranks by what plain weights have not, and the linear blend takes its place."""
    ranker = recommender.ranker_
    if ranker.blend is None or ranker.name == ranker.settings.model.name:
        return []
    by = "a blend in logarithms" if ranker.name == BLEND else ranker.name
    return [f"The run ranks by {by}. These weights are of the linear blend of the network with {PARTNER}."]


def _write_ranking(recommender: Recommender, folder: Path) -> dict[str, Any]:
    settings, model = ranking_settings(recommender), recommender.model_
    if settings["weight"] < 1:
        write_ranking(model, folder / "model.onnx", settings["history"])
    counted = {f"{name}.npz": name for name in settings["parts"] if name != NETWORK}
    if settings["weight"] > 0 and not settings["parts"]:
        counted["counts.npz"] = settings.get("counts", PARTNER)
    for file, name in counted.items():
        arrays: Any = counted_arrays(model if isinstance(model, Baseline) else recommender.baselines_[name])
        np.savez(folder / file, **arrays)
    return settings


def _write_labels(classifier: MultiLabelClassifier, folder: Path, run: Path, notes: list[str]) -> dict[str, Any]:
    source, width = classifier.features_.encoder, 0
    encoder = "apart"
    if source is not None:
        tuned = classifier.encoder_ is not None
        model = load_encoder(str(run / ENCODER) if tuned else source.location, device="cpu")
        width = int(model.get_embedding_dimension())
        if why := _encoder_fault(model, folder):
            notes.append(f"The sentence encoder was not exported ({why}): give vectors of the texts to `scores`.")
        else:
            encoder = "exported"
    write_head(classifier.head_, folder / "model.onnx", width)
    if vectors := label_vectors(classifier):
        np.savez(folder / "label_vectors.npz", **vectors)  # type: ignore[arg-type]
    return label_settings(classifier, encoder)


def _encoder_fault(model: Any, folder: Path) -> str:
    """Write encoder.onnx and tokenizer.json and return "", or return the reason why that is not possible."""
    fast = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    if fast is None:
        return "its tokenizer does not run without torch"
    try:
        write_encoder(model, folder / "encoder.onnx")
    except ConfigError:
        raise
    except Exception as error:  # the encoder is foreign code, and may do what no graph can hold
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    tokenizer = type(fast).from_str(fast.to_str())
    tokenizer.enable_truncation(int(model.max_seq_length))
    tokenizer.enable_padding(pad_id=model.tokenizer.pad_token_id or 0, pad_token=model.tokenizer.pad_token or "[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    return ""


def _write_texts(settings: dict[str, Any], trained: Recommender | MultiLabelClassifier, folder: Path) -> None:
    """Write settings.json, vocabulary.json and, for labels, thresholds.json."""
    names, files = trained.vocabulary_.names, {SETTINGS: settings}
    if isinstance(trained, Recommender):
        vocabulary = trained.vocabulary_
        files["vocabulary.json"] = {"items": vocabulary.values, "kind": vocabulary.kind}
    else:
        files["vocabulary.json"] = {"labels": names, "ngrams": ngram_facts(trained)}
        files["thresholds.json"] = trained.decisions_.to_json(names)
        if opinions := opinion_facts(trained):
            files["opinions.json"] = opinions
    for name, value in files.items():
        text = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def _write_whole(folder: Path, overwrite: bool, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that then takes the place of `folder` in one step; raise RunError if that fails."""
    place = Path(os.path.realpath(folder))
    restore(place)
    try:
        with FolderLock(place) as lock:
            check_export_place(folder, overwrite)
            whole_folder(place, write, lock)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} cannot be written: {error}. Free some space or choose another folder") from error
