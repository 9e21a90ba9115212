"""Networks over sequences: (B, T) item numbers in, hidden vectors out, and a matrix with a row per item."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperfocal.config.recommend import ModelSettings
from hyperfocal.metrics.ranking import Scorer
from hyperfocal.models.causal_layers import ENCODERS
from hyperfocal.models.item_vectors import FeatureVectors, ItemFeatures
from hyperfocal.sequences import Sequences

EMBEDDING_STD = 0.02
OUTPUT_STD = 0.01  # small, so that every item's score starts near its prior: Lin et al. 2017, section 4.1


class ConcatMLP(nn.Module):
    """Concatenated item embeddings, then fully connected layers with ReLU.

    The T embeddings of width E are concatenated, oldest first, and pass the hidden layers; the output of the last one
    is the hidden vector. `weight` (L, D) and `bias` (L,) are the output layer.

    Args:
        num_items: L; the padding id is L, embedded as zeros.
        history: T, number of items that the network reads.
        settings: widths and dropout.
        bias: initial output bias of every item.
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

    def output(self) -> tuple[Tensor, Tensor]:
        """Return the (L, D) weight and (L,) bias of the output layer, for the fused losses."""
        return self.weight, self.bias

    def forward(self, histories: Tensor) -> Tensor:
        """Return (B, D) hidden vectors of (B, T) item numbers."""
        hidden: Tensor = self.layers(self.embedding(histories).flatten(1))
        return hidden

    def scores(self, histories: Tensor) -> Tensor:
        """Return (B, L) logits of (B, T) item numbers."""
        return torch.addmm(self.bias, self(histories), self.weight.T)


class CausalNetwork(nn.Module):
    """Item vectors, a causal encoder, and the same item vectors as output layer.

        hidden = encoder(sqrt(D) * vectors[items]),    logits = hidden @ vectors.T + biases

    `vectors` has a learned row per item; vectors of the features are added to it (`item_vectors.py`).

    Args:
        num_items: L; the padding id is L, embedded as zeros.
        history: the longest history that the network reads.
        settings: encoder, width, layers and dropout.
        bias: initial output bias of every item.
        features: of the items. None: learned vectors only.
        drop: as in `FeatureVectors`.
    """

    def __init__(
        self,
        num_items: int,
        history: int,
        settings: ModelSettings,
        *,
        bias: float,
        features: ItemFeatures | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        width = settings.embedding_width
        self.num_items, self.history, self.settings = num_items, history, settings
        self.embedding = nn.Embedding(num_items + 1, width, padding_idx=num_items)
        nn.init.normal_(self.embedding.weight[:num_items], std=EMBEDDING_STD)
        self.scale = width**0.5
        self.encoder = ENCODERS[settings.name](settings, history)
        self.features = None if features is None else FeatureVectors(features, width, drop, bias=bias)
        self.bias = nn.Parameter(torch.full((num_items,), bias if features is None else 0.0))

    def output(self) -> tuple[Tensor, Tensor]:
        """Return the (L, D) vectors and (L,) biases, for the fused losses; in training with one draw of `drop`."""
        own = self.embedding.weight[: self.num_items]
        return (own, self.bias) if self.features is None else self.features(own, self.bias)

    def forward(self, items: Tensor, vectors: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """Return (B, T, D) hidden vectors, or (B, D) of them at one place per row.

        Args:
            items: (B, T) item numbers, oldest first, padded on the right.
            vectors: (L, D) from `output`, so that it is not called twice. None: it is called.
            places: (B,) place of the hidden vector of each row. None: all places.
        """
        if self.features is None:
            embedded = self.embedding(items)
        else:
            vectors = self.output()[0] if vectors is None else vectors
            embedded = functional.embedding(items, functional.pad(vectors, (0, 0, 0, 1)))
        hidden: Tensor = self.encoder(embedded * self.scale, places)
        return hidden

    def scores(self, histories: Tensor) -> Tensor:
        """Return (B, L) logits of the next item after (B, T) histories, newest last, padded on the left."""
        lengths = (histories != self.num_items).sum(1)
        steps = torch.arange(int(lengths.max().clamp(min=1)), device=lengths.device)
        places = steps + (histories.shape[1] - lengths)[:, None]
        last = histories.shape[1] - 1
        items = torch.where(places <= last, histories.gather(1, places.clamp(max=last)), self.num_items)
        vectors, biases = self.output()
        hidden = self(items, vectors, (lengths - 1).clamp(min=0))
        return torch.addmm(biases, hidden, vectors.T)

    @torch.no_grad()
    def with_items(self, new: ItemFeatures | None = None, boost: float = 0.0) -> CausalNetwork:
        """Return the network for inference, its vectors computed once and followed by those of new items.

        Args:
            new: features of the new items. None: no new items.
            boost: added to the biases of new items.
        """
        vectors, biases = self.output()
        if new is not None:
            assert self.features is not None, "new items are scored by their features"
            added = self.features.of(new)
            vectors, biases = torch.cat([vectors, added[:, :-1]]), torch.cat([biases, added[:, -1] + boost])
        network = CausalNetwork(len(vectors), self.history, self.settings, bias=0.0)
        network.encoder, network.bias = self.encoder, nn.Parameter(biases)
        table = functional.pad(vectors, (0, 0, 0, 1))
        network.embedding = nn.Embedding.from_pretrained(table, padding_idx=len(vectors))
        return network.eval()


Network = ConcatMLP | CausalNetwork


def network_scorer(network: Network, history: int) -> Scorer:
    """Return the network's function from histories to (U, L) scores; `history` is the most items that it reads."""

    def score(histories: Sequences) -> Tensor:
        longest = max(int(histories.lengths.max()), 1) if len(histories) else 1
        width = min(history, longest) if isinstance(network, CausalNetwork) else history
        return network.scores(histories.last(width).to(network.bias.device))

    return score
