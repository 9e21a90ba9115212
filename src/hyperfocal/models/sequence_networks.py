"""Networks over sequences: (B, T) item numbers in, hidden vectors out, and a matrix with a row per item.

A causal network embeds the items and passes them through one of the encoders below: (B, T, D) embedded items in, oldest
first, (B, T, D) hidden vectors out.

The hidden vector at position t depends on the items at positions 0 to t only, so that one pass trains on every
position. Rows are padded on the right, which no item's vector depends on. Scoring needs one position per row: called
with (B,) positions, an encoder returns (B, D), and the transformer's last block computes only these.

    mean         h_t = sum over s <= t of decay^(t - s) x_s / sum over s <= t of decay^(t - s)
    gru          gated recurrent units (Cho et al. 2014)
    transformer  blocks of h <- h + attention(norm(h)), then h <- h + feed_forward(norm(h)), where each position
                 attends to itself and earlier ones (Kang and McAuley 2018, SASRec; norms first, as Xiong et al. 2020);
                 with `model.filter` mixed with a causal filter (after Shin et al. 2024, BSARec)
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperfocal.config.recommend import ModelSettings
from hyperfocal.metrics.ranking import Scorer
from hyperfocal.models.item_vectors import FeatureVectors, ItemFeatures
from hyperfocal.sequences import Sequences

EMBEDDING_STD = 0.02
OUTPUT_STD = 0.01  # small, so that every item's score starts near its prior: Lin et al. 2017, section 4.1
ROTATION_BASE = 10_000.0
FILTER_WIDTH = 5  # positions that the low-pass filter reads: the current one and four before


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

    def hidden(self, histories: Tensor) -> Tensor:
        """Return (B, D) hidden vectors of (B, T) item numbers, as `scores` multiplies them."""
        vectors: Tensor = self(histories)
        return vectors

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

    def hidden(self, histories: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Return (B, D) hidden vectors after (B, T) histories, newest last, padded on the left; `vectors` as above."""
        lengths = (histories != self.num_items).sum(1)
        steps = torch.arange(int(lengths.max().clamp(min=1)), device=lengths.device)
        places = steps + (histories.shape[1] - lengths)[:, None]
        last = histories.shape[1] - 1
        items = torch.where(places <= last, histories.gather(1, places.clamp(max=last)), self.num_items)
        hidden: Tensor = self(items, vectors, (lengths - 1).clamp(min=0))
        return hidden

    def scores(self, histories: Tensor) -> Tensor:
        """Return (B, L) logits of the next item after (B, T) histories, newest last, padded on the left."""
        vectors, biases = self.output()
        return torch.addmm(biases, self.hidden(histories, vectors), vectors.T)

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


class Mean(nn.Module):
    """Decayed mean of the items so far."""

    def __init__(self, settings: ModelSettings, history: int) -> None:
        super().__init__()
        self.decay = settings.decay

    def forward(self, items: Tensor, places: Tensor | None = None) -> Tensor:
        """Return (B, T, D) hidden vectors of (B, T, D) items, or (B, D) of them at (B,) places."""
        steps = torch.arange(items.shape[1], device=items.device)
        age = steps[:, None] - steps
        weights = torch.where(age >= 0, self.decay ** age.clamp(min=0), 0.0)
        means: Tensor = (weights / weights.sum(1, keepdim=True)) @ items
        return means if places is None else at(means, places)


class GRU(nn.Module):
    """Gated recurrent units, one layer or several."""

    def __init__(self, settings: ModelSettings, history: int) -> None:
        super().__init__()
        width, dropout = settings.embedding_width, settings.dropout if settings.layers > 1 else 0.0
        self.layers = nn.GRU(width, width, settings.layers, batch_first=True, dropout=dropout)

    def forward(self, items: Tensor, places: Tensor | None = None) -> Tensor:
        """Return (B, T, D) hidden vectors of (B, T, D) items, or (B, D) of them at (B,) places."""
        hidden: Tensor = self.layers(items)[0]
        return hidden if places is None else at(hidden, places)


class Transformer(nn.Module):
    """Causal self-attention, with learned positions, rotated ones (Su et al. 2021) or none."""

    def __init__(self, settings: ModelSettings, history: int) -> None:
        super().__init__()
        width = settings.embedding_width
        self.positions = nn.Parameter(torch.randn(history, width) * 0.02) if settings.positions == "learned" else None
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, items: Tensor, places: Tensor | None = None) -> Tensor:
        """Return (B, T, D) hidden vectors of (B, T, D) items, or (B, D) of them at (B,) places."""
        if self.positions is not None:
            items = items + self.positions[: items.shape[1]]
        hidden = self.dropout(items)
        for number, block in enumerate(self.blocks, 1):
            hidden = block(hidden, places if number == len(self.blocks) else None)
        normed: Tensor = self.norm(hidden)
        return normed


class Block(nn.Module):
    """Attention, then a feed-forward layer, each with a residual connection."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.embedding_width
        self.heads, self.rotary = settings.heads, settings.positions == "rotary"
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.project, self.combine = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen = nn.Linear(width, settings.feed_forward * width)
        self.narrow = nn.Linear(settings.feed_forward * width, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.share, self.filter = settings.filter, CausalFilter(width) if settings.filter else None

    def forward(self, hidden: Tensor, places: Tensor | None = None) -> Tensor:
        """Return (B, T, D) hidden vectors of (B, T, D) items, or (B, D) of them at (B,) places."""
        normed = self.norms[0](hidden)
        mixed = self.attend(normed, places)
        if self.filter is not None:
            mixed = torch.lerp(mixed, self.filter(normed, places), self.share)
        hidden = (hidden if places is None else at(hidden, places)) + self.dropout(mixed)
        wide = self.dropout(functional.gelu(self.widen(self.norms[1](hidden))))
        result: Tensor = hidden + self.dropout(self.narrow(wide))
        return result

    def attend(self, hidden: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the attention of each place to itself and earlier ones, (B, T, D), or (B, D) at (B,) places."""
        projected = self.project(hidden).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = projected.unbind(0)  # (B, heads, T, D / heads) each
        if self.rotary:
            queries, keys = rotated(queries), rotated(keys)
        if places is None:
            attended = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            attended = attended.transpose(1, 2).flatten(2)
        else:
            queries = at(queries.transpose(1, 2), places)[:, :, None]  # (B, heads, 1, D / heads)
            seen = torch.arange(hidden.shape[1], device=hidden.device) <= places[:, None]
            attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen[:, None, None])
            attended = attended[:, :, 0].flatten(1)
        combined: Tensor = self.combine(attended)
        return combined


class CausalFilter(nn.Module):
    """Weighted sum of the slow part of the sequence and its change at the current position, per feature.

        low_t = sum over s < 5 of a_s * x_{t - s},    y_t = low_t + b^2 * (x_t - low_t)

    a (5, D) starts as a mean, b (D,) is drawn at random. BSARec and FMLP-Rec filter the Fourier transform of the whole
    sequence, where each position depends on later ones too; this filter can be trained on every position.
    Source: after Shin et al. 2024, An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.full((FILTER_WIDTH, width), 1 / FILTER_WIDTH))
        self.high = nn.Parameter(torch.randn(width))

    def forward(self, items: Tensor, places: Tensor | None = None) -> Tensor:
        """Return (B, T, D) hidden vectors of (B, T, D) items, or (B, D) of them at (B,) places."""
        before = functional.pad(items, (0, 0, FILTER_WIDTH - 1, 0))
        length = items.shape[1]
        low = self.taps[0] * items
        for age in range(1, FILTER_WIDTH):
            low = low + self.taps[age] * before[:, FILTER_WIDTH - 1 - age :][:, :length]
        filtered: Tensor = low + self.high.square() * (items - low)
        return filtered if places is None else at(filtered, places)


def at(vectors: Tensor, places: Tensor) -> Tensor:
    """Return the vectors of (B, T, ...) at (B,) places."""
    return vectors[torch.arange(places.shape[0], device=places.device), places]


def rotated(vectors: Tensor) -> Tensor:
    """Return (..., T, E) vectors rotated by an angle that grows with their position; products depend on the distance.

    Pairs (x_i, x_{i + E/2}) turn by t * 10000^(-2i/E) at place t. Source: Su et al. 2021, RoFormer.
    """
    places, half, device = vectors.shape[-2], vectors.shape[-1] // 2, vectors.device
    speeds = torch.exp(torch.arange(half, device=device) * (-math.log(ROTATION_BASE) / half))
    angles = torch.arange(places, device=device)[:, None] * speeds
    first, second = vectors[..., :half], vectors[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


ENCODERS: dict[str, type[nn.Module]] = {"mean": Mean, "gru": GRU, "transformer": Transformer}
