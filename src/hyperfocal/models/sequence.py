"""Networks over sequences: (B, T) item numbers in, hidden vectors out, and a matrix with a row an item."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from hyperfocal.config.recommend import ModelSettings
from hyperfocal.models.encoders import ENCODERS

EMBEDDING_STD = 0.02
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


class CausalNetwork(nn.Module):
    """Embedded items, a causal encoder, and the items themselves as output layer.

        hidden = encoder(sqrt(D) * embedding(items)),    logits = hidden @ embedding.T + bias

    `weight` (L, D) and `bias` (L,) are what the fused losses take.

    Args:
        num_items: L; the padding id is L itself, embedded as zeros.
        history: the longest history that is read.
        settings: which encoder, its width, layers and dropout.
        bias: where every output bias starts.
    """

    def __init__(self, num_items: int, history: int, settings: ModelSettings, *, bias: float) -> None:
        super().__init__()
        self.num_items = num_items
        self.embedding = nn.Embedding(num_items + 1, settings.embedding_width, padding_idx=num_items)
        nn.init.normal_(self.embedding.weight[:num_items], std=EMBEDDING_STD)
        self.scale = settings.embedding_width**0.5
        self.encoder = ENCODERS[settings.name](settings, history)
        self.bias = nn.Parameter(torch.full((num_items,), bias))

    @property
    def weight(self) -> Tensor:
        """Return (L, D), the rows of the items."""
        return self.embedding.weight[: self.num_items]

    def forward(self, items: Tensor) -> Tensor:
        """Return (B, T, D) hidden vectors of (B, T) items, oldest first, filled up on the right."""
        hidden: Tensor = self.encoder(self.embedding(items) * self.scale)
        return hidden

    def scores(self, histories: Tensor) -> Tensor:
        """Return (B, L) logits of what follows (B, T) histories, newest last, filled up on the left."""
        lengths = (histories != self.num_items).sum(1)
        places = torch.arange(int(lengths.max().clamp(min=1))) + (histories.shape[1] - lengths)[:, None]
        last = histories.shape[1] - 1
        items = torch.where(places <= last, histories.gather(1, places.clamp(max=last)), self.num_items)
        hidden = self(items)[torch.arange(len(items)), (lengths - 1).clamp(min=0)]
        return torch.addmm(self.bias, hidden, self.weight.T)
