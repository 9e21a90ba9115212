"""Fine-tuning: the encoder is trained end to end, with the head and the loss of any other run.

    hidden = head layers(vector of the text, scaled to a mean square of 1),  then the fused loss

A vector is what sentence-transformers pools from the hidden states, scaled like the vectors of a frozen encoder.
Training and prediction share one path, `embed`. It runs on a CUDA device if there is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hyperfocal.classify.counted_loss import CountedLoss, row_losses, training_counts
from hyperfocal.classify.head import Trained, make_bias, make_head, make_loss, score_documents, validate_scores
from hyperfocal.classify.prepare import PreparedTexts
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.counted_labels import unknown_of
from hyperfocal.errors import RunError
from hyperfocal.machine import training_device
from hyperfocal.models.example_features import ExampleFeatures
from hyperfocal.models.sentence_encoder import find_encoder, load_encoder
from hyperfocal.models.text_head import Features, TextHead
from hyperfocal.storage.exchange import put_in_place
from hyperfocal.storage.run_folder import ENCODER, RunFolder
from hyperfocal.storage.whole import aside_folder, finish
from hyperfocal.training.run import train_job
from hyperfocal.training.trainer import Job, Portion
from hyperfocal.training.watch import SILENT, Watch

Encoder = Any  # a SentenceTransformer, whose heavy import is inside functions


class Network(nn.Module):
    """An encoder and a head over its vectors."""

    def __init__(self, encoder: Encoder, head: TextHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, texts: list[str]) -> Tensor:
        """Return the input of the head's last layer, (B, W)."""
        return self.head.hidden_of(embed(self.encoder, texts))


def load_trainable(features: ExampleFeatures, settings: ClassifySettings) -> Encoder | None:
    """Return the encoder to fine-tune; None if the settings ask for none.

    Raises:
        ConfigError: it cannot be loaded.
    """
    if not settings.features.finetune:
        return None
    assert features.encoder is not None, "fine-tuning has no other features"
    return load_encoder(features.encoder.location, device=training_device(), seed=settings.seed)


def finetune(
    encoder: Encoder,
    data: PreparedTexts,
    settings: ClassifySettings,
    run: RunFolder | None = None,
    *,
    resume: bool = False,
    watch: Watch = SILENT,
) -> Trained:
    """Train the encoder in place and a head over it; return the head, on the CPU, and its validation scores.

    Arguments and errors as in `train_head`, with documents in place of features.
    """
    texts, valid_texts = (part.documents.all_texts() for part in (data.train, data.valid))
    rows, labels, truth = texts.to_list(), data.train.labels, data.valid.labels
    (counts, number), device = training_counts(labels), encoder.device
    loss = make_loss(row_losses(settings.loss, labels), counts, number).to(device)
    counted = CountedLoss.of(labels, settings.loss.reduction)
    width = encoder.get_embedding_dimension()
    head = make_head(settings, 0, width, make_bias(settings, counts, number)).to(device)
    network = Network(encoder, head)

    def step_loss(batch: Tensor) -> Portion:
        hidden, right = network([rows[row] for row in batch.tolist()]), labels.select(batch)
        unknown = unknown_of(right)
        mask = None if unknown is None else unknown.to(device)
        return counted.portion(loss(hidden, head.weight, head.bias, right.to(device), mask), right)

    def score() -> Tensor:
        vectors = encode(encoder, valid_texts, batch=settings.features.encoder_batch).to(head.bias.device)
        return score_documents(head, Features(None, vectors)).cpu()

    job = Job(
        network,
        step_loss,
        len(labels),
        lambda: validate_scores(score(), truth, settings),
        settings.train,
        settings.seed,
        slow=list(encoder.parameters()),
        slow_learning_rate=settings.train.encoder_learning_rate,
    )
    history = train_job(job, run, resume=resume, watch=watch)
    head.to("cpu")
    return Trained(head, history, score())


def embed(encoder: Encoder, texts: list[str]) -> Tensor:
    """Return (B, D) vectors of mean square 1, differentiable, on the encoder's device."""
    inputs = encoder.preprocess(texts)
    placed = {name: value.to(encoder.device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    vectors: Tensor = encoder(placed)["sentence_embedding"]
    return vectors * vectors.square().mean(1, keepdim=True).clamp(min=1e-24).rsqrt()


def encode(encoder: Encoder, texts: pl.Series, *, batch: int) -> Tensor:
    """Return (N, D) float32 vectors on the CPU, computed for `batch` texts at once."""
    encoder.eval()
    order = np.argsort(texts.str.len_chars().to_numpy(), kind="stable")[::-1].copy()  # equal lengths need no padding
    vectors = torch.empty(len(texts), encoder.get_embedding_dimension())
    rows = texts.gather(order).to_list()
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            block = rows[start : start + batch]
            vectors[order[start : start + batch]] = embed(encoder, block).float().cpu()
    return vectors


def write_encoder(run: RunFolder, encoder: Encoder) -> str:
    """Write the encoder to the run, whole or not at all; return its checksum.

    Raises:
        RunError: it cannot be written.
    """
    place = run.path / ENCODER
    try:
        with aside_folder(run.path) as aside:
            encoder.save_pretrained(str(aside / ENCODER), create_model_card=False)
            finish(aside / ENCODER)
            if place.exists():
                put_in_place(aside / ENCODER, place)
            else:
                (aside / ENCODER).rename(place)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot write {place}: {error}. Free some space or choose another folder") from error
    return _checksum(run)


def read_encoder(run: RunFolder, checksum: str) -> Encoder:
    """Return the encoder that `write_encoder` wrote.

    Raises:
        RunError: it is missing or differs from the one that was written.
    """
    if not (run.path / ENCODER).is_dir() or _checksum(run) != checksum:
        raise RunError(f"run {run.path}: {ENCODER}/ is missing or damaged. Restore the folder or fit again")
    return load_encoder(str(run.path / ENCODER), device=training_device())


def _checksum(run: RunFolder) -> str:
    source = find_encoder(str(run.path / ENCODER))
    assert source is not None, "find_encoder got a name"
    return source.checksum
