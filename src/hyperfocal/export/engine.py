"""ONNX in place of torch behind a service: the same answers from a session of onnxruntime.

    engine = open_engine(Path("run"))          # a run, or a folder that `hyperfocal export RUN --onnx` wrote
    engine.rank([["C12", "C7"]], k=3)          # of a recommend run: [(items, scores)]
    engine.scores(["a glass of red wine"])     # of a classify run: (1, L) logits, in the order of engine.labels

A session may be asked by several threads at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hyperfocal.errors import RunError
from hyperfocal.export.graphs import need

if TYPE_CHECKING:
    from hyperfocal.export.standalone.classifier import Classifier
    from hyperfocal.export.standalone.recommender import Recommender


def open_engine(path: Path, *, threads: int = 0) -> Recommender | Classifier:
    """Return what answers from ONNX, for a run or an exported folder.

    A run is exported to a folder that is gone again when this returns; that takes some seconds.

    Args:
        path: of the run or the folder.
        threads: CPU threads of one request; 0 is one a core.

    Raises:
        RunError: neither a run nor an export, or a damaged one; a run whose encoder cannot be exported.
        ConfigError: the extra `export` is not installed.
    """
    need("onnxruntime")
    if (path / "predict.py").is_file():
        return _open(path, threads)
    from hyperfocal.export.export import export_onnx

    with TemporaryDirectory() as place:
        export_onnx(path, Path(place) / "onnx")
        return _open(Path(place) / "onnx", threads)


def _open(folder: Path, threads: int) -> Recommender | Classifier:
    import onnxruntime

    from hyperfocal.export.standalone.classifier import Classifier
    from hyperfocal.export.standalone.recommender import Recommender

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        found = (Recommender if settings["job"] == "recommend" else Classifier)(folder, options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{folder}: the export is damaged ({error}). Write it again with `hyperfocal export`") from None
    if isinstance(found, Classifier) and found.settings["encoder"] == "apart":
        raise RunError(f"{folder}: its sentence encoder was not exported, so ONNX cannot answer. Use --engine torch")
    return found
