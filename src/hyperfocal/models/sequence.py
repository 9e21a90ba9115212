"""Sequence encoders: (B, T) item numbers in, (B, D) hidden vectors out, and a matrix with a row an item."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from hyperfocal.config.recommend import ModelSettings

OUTPUT_STD = 0.01  # small, so that every label really starts at its prior: Lin et al. 2017, section 4.1


class ConcatMLP(nn.Module):
    """The original challenge's network: embeddings in a row, then fully connected layers with ReLU.

    The T embeddings of width E are concatenated, oldest first, and pass the hidden layers; the last
    one's output is the hidden vector. `weight` (L, D) and `bias` (L,) are the output layer, which the
    fused losses take as they are.

    Args:
        num_items: L; the padding id is L itself, embedded as zeros.
        history: T, items read.
        settings: widths and dropout.
        bias: where every output bias starts.
    """

    def __init__(self, num_items: int, history: int, settings: ModelSettings, *, bias: float) -> None:
        super().__init__()
        widths = [history * settings.embedding_width, *settings.hidden_widths]
        self.embedding = nn.Embedding(num_items + 1, settings.embedding_width, padding_idx=num_items)
        self.layers = nn.Sequential()
        for inputs, outputs in pairwise(widths):
            self.layers.extend([nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(settings.dropout)])
        output = nn.Linear(widths[-1], num_items)
        nn.init.normal_(output.weight, std=OUTPUT_STD)
        self.weight = output.weight
        self.bias = nn.Parameter(torch.full((num_items,), bias))

    def forward(self, histories: Tensor) -> Tensor:
        """Return (B, D) hidden vectors of (B, T) item numbers."""
        hidden: Tensor = self.layers(self.embedding(histories).flatten(1))
        return hidden

    def scores(self, histories: Tensor) -> Tensor:
        """Return (B, L) logits of (B, T) item numbers."""
        return torch.addmm(self.bias, self(histories), self.weight.T)
