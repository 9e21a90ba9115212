"""Documents of a file that are read through mapped files in the cache."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hyperfocal.config.classify import ClassifySettings, TextDataSettings
from hyperfocal.data.documents import Documents
from hyperfocal.data.stored_documents import stored_documents, stream_documents
from hyperfocal.machine import default_cache
from hyperfocal.storage.cache import cached_streamed, key_of

logger = logging.getLogger("hyperfocal")


def no_stream(documents: Any, settings: ClassifySettings) -> str:
    """Return why documents cannot be streamed; "" if they can."""
    if not isinstance(documents, str | Path):
        return "for documents that are in memory already"
    train, finetune = settings.train, settings.features.finetune
    in_memory: dict[str, Any] = {"train.folds": train.folds, "train.refit": train.refit, "features.finetune": finetune}
    in_memory |= {"data.fields": settings.data.fields, "data.vectors": settings.data.vectors}
    name = next((name for name, value in in_memory.items() if value), "")
    return f"with {name}, which needs the features, or the texts, of all documents in memory" if name else ""


def read_streamed(path: str | Path, settings: TextDataSettings) -> Documents:
    """Return what `as_documents` returns, with its errors, but with the texts in the cache and not in memory."""
    folder = default_cache() / "documents"
    logger.info("%s: streamed through mapped files in %s", path, folder)
    columns = [getattr(settings, name) for name in ("text", "labels", "separator", "id", "group")]
    if settings.weight or settings.unknown:  # without them, the key of earlier versions
        columns += [settings.weight, settings.unknown]
    key = key_of(Path(path), columns)
    return stored_documents(cached_streamed(folder, key, lambda work: stream_documents(path, settings, work)))
