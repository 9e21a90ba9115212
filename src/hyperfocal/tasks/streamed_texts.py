"""Documents larger than memory, made ready to be prepared: their texts in the cache, and their labels in memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hyperfocal.cache import default_cache
from hyperfocal.config.classify import ClassifySettings, TextDataSettings
from hyperfocal.data.stream_documents import stored_documents, stream_documents
from hyperfocal.data.texts import Documents
from hyperfocal.tasks.streamed_files import is_streamed, kept, key_of

logger = logging.getLogger("hyperfocal")


def streams_texts(documents: Any, settings: ClassifySettings) -> bool:
    """Return whether documents are streamed: a file, and either asked for, or too large for memory and possible.

    Raises:
        ConfigError: asked for where it is not possible.
    """
    return is_streamed(documents, settings.data.stream, _impossible(documents, settings))


def _impossible(documents: Any, settings: ClassifySettings) -> str:
    """Return why documents cannot be streamed, or ""."""
    if not isinstance(documents, str | Path):
        return "for documents that are in memory already"
    wanted = {
        "train.folds": settings.train.folds,
        "train.refit": settings.train.refit,
        "features.finetune": settings.features.finetune,
    }
    name = next((name for name, value in wanted.items() if value), "")
    return f"with {name}, which needs the features, or the texts, of all documents in memory" if name else ""


def read_streamed(path: str | Path, settings: TextDataSettings) -> Documents:
    """Return what `read_documents` returns, with the texts in the cache.

    Raises:
        DataError: as in `read_documents`.
        RunError: the cache cannot be written.
    """
    folder = default_cache() / "documents"
    logger.info("%s: streamed through mapped files in %s", path, folder)
    columns = [getattr(settings, name) for name in ("text", "labels", "separator", "id", "group")]
    key = key_of(Path(path), columns)
    return stored_documents(kept(folder, key, lambda work: stream_documents(path, settings, work)))
