"""Fine-tuning: the encoder itself is trained, end to end, with the head and the loss of any other run.

    hidden = head layers(vector of the text, scaled to a mean square of 1),  then the fused loss

A vector is what sentence-transformers pools from the hidden states, scaled as those of a frozen encoder are. Training
and prediction take the same way, `embed`. It runs on a CUDA device where there is one.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hyperfocal.classify.head import VALIDATION, Watch, make_head, make_loss, score_documents, train_job
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.errors import RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import frequency_bias
from hyperfocal.losses.options import divisor
from hyperfocal.machine import training_device
from hyperfocal.models.sentence_encoder import find_encoder, load_encoder
from hyperfocal.models.text_head import Features, TextHead
from hyperfocal.storage.run_folder import ENCODER, RunFolder
from hyperfocal.training.trainer import Job, Portion

Encoder = Any  # a SentenceTransformer; heavy imports are inside


class Network(nn.Module):
    """An encoder and a head over its vectors."""

    def __init__(self, encoder: Encoder, head: TextHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, texts: list[str]) -> Tensor:
        """Return what the last layer of the head reads, (B, W)."""
        return self.head.hidden_of(embed(self.encoder, texts))


def embed(encoder: Encoder, texts: list[str]) -> Tensor:
    """Return (B, D) vectors of mean square 1, on the encoder's device, for autograd to go back through."""
    inputs = encoder.preprocess(texts)
    placed = {name: part.to(encoder.device) if isinstance(part, Tensor) else part for name, part in inputs.items()}
    vectors: Tensor = encoder(placed)["sentence_embedding"]
    return vectors * vectors.square().mean(1, keepdim=True).clamp(min=1e-24).rsqrt()


def encode(encoder: Encoder, texts: pl.Series, *, batch: int) -> Tensor:
    """Return (N, D) float32 vectors on the CPU, `batch` texts at once."""
    encoder.eval()
    order = np.argsort(texts.str.len_chars().to_numpy(), kind="stable")[::-1].copy()  # of one length: no padding
    vectors = torch.empty(len(texts), encoder.get_embedding_dimension())
    rows = texts.gather(order).to_list()
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            block = rows[start : start + batch]
            vectors[order[start : start + batch]] = embed(encoder, block).float().cpu()
    return vectors


def finetune(
    encoder: Encoder,
    train: tuple[pl.Series, SparseLabels],
    valid: tuple[pl.Series, SparseLabels],
    settings: ClassifySettings,
    run: RunFolder | None = None,
    *,
    resume: bool = False,
    watch: Watch = lambda *_: None,
) -> tuple[TextHead, list[dict[str, float]]]:
    """Train the encoder in place, and a head over it; return the head, on the CPU, and a row an epoch.

    Arguments and errors as in `train_head`, with texts in place of features.
    """
    texts, labels = train[0].to_list(), train[1]
    counts, device = labels.counts(), encoder.device
    loss = make_loss(settings.loss, counts, len(labels)).to(device)
    width = encoder.get_embedding_dimension()
    head = make_head(settings, 0, width, frequency_bias(counts, len(labels))).to(device)
    network = Network(encoder, head)

    def step_loss(rows: Tensor) -> Portion:
        hidden, right = network([texts[row] for row in rows.tolist()]), labels.select(rows)
        return Portion(loss(hidden, head.weight, head.bias, right.to(device)), divisor(right, loss.options))

    def validate() -> dict[str, float]:
        vectors = encode(encoder, valid[0], batch=settings.features.encoder_batch).to(device)
        name = settings.train.metric
        return {name: VALIDATION[name](score_documents(head, Features(None, vectors)).cpu(), valid[1])}

    job = Job(
        network,
        step_loss,
        len(labels),
        validate,
        settings.train,
        settings.seed,
        slow=list(encoder.parameters()),
        slow_learning_rate=settings.train.encoder_learning_rate,
    )
    history = train_job(job, run, resume=resume, watch=watch)
    head.to("cpu")
    return head, history


def keep_encoder(run: RunFolder, encoder: Encoder) -> str:
    """Write the encoder to the run, whole or not at all, and return its checksum.

    Raises:
        RunError: it cannot be written.
    """
    place, aside = run.path / ENCODER, run.path / f".{os.getpid()}.{ENCODER}"
    try:
        encoder.save_pretrained(str(aside), create_model_card=False)
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot write {place}: {error}. Free some space or choose another folder") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _checksum(run)


def restore_encoder(run: RunFolder, checksum: str) -> Encoder:
    """Return the encoder that `keep_encoder` wrote.

    Raises:
        RunError: it is missing, or not the one that was written.
    """
    if not (run.path / ENCODER).is_dir() or _checksum(run) != checksum:
        raise RunError(
            f"run {run.path}: {ENCODER}/ is missing or damaged. Restore the folder or fit again with --overwrite"
        )
    return load_encoder(str(run.path / ENCODER), device=training_device())


def _checksum(run: RunFolder) -> str:
    source = find_encoder(str(run.path / ENCODER))
    assert source is not None, "a name was given"
    return source.checksum
