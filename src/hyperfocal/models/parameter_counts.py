"""The number of parameters of a network over sequences, by formula: counted without making the network."""

from __future__ import annotations

from itertools import pairwise

from hyperfocal.config.recommend import ModelSettings
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.models.sequence_networks import FILTER_WIDTH


def count_parameters(
    settings: ModelSettings, num_items: int, history: int, features: ItemFeatures | None = None
) -> int:
    """Return the number of parameters of the network that the settings name; 0 for a baseline.

    With L items, D = embedding_width, T = history, N = layers and F = feed_forward:

        causal        (L + 1) D + L, and the encoder:
        mean          0
        gru           N (6 D^2 + 6 D)
        transformer   T D if positions are learned, 2 D for the last norm, and N blocks of
                      4 D^2 + 4 D for attention, 2 F D^2 + F D + D for feed-forward, 4 D for the norms,
                      and with a filter 6 D
        concat_mlp    (L + 1) D, then with the widths T D, H_1, ..., H_n, L the product of each width and the next one,
                      and a bias for each H and for each item

    With features, V = num_values (1 or more) and M numbers, (V + M + 2)(D + 1) are added.
    """
    width = settings.embedding_width
    if settings.name == "concat_mlp":
        widths = [history * width, *settings.hidden_widths, num_items]
        return (num_items + 1) * width + sum(before * after + after for before, after in pairwise(widths))
    if settings.name not in ENCODERS:
        return 0
    table = (num_items + 1) * width + num_items
    if features is not None:
        table += (max(features.num_values, 1) + features.numbers.shape[1] + 2) * (width + 1)
    return table + ENCODERS[settings.name](settings, history)


def _gru(settings: ModelSettings, history: int) -> int:
    width = settings.embedding_width
    return settings.layers * 6 * (width * width + width)


def _transformer(settings: ModelSettings, history: int) -> int:
    width, forward = settings.embedding_width, settings.feed_forward
    block = 4 * width * width + 4 * width + 2 * forward * width * width + forward * width + width + 4 * width
    block += (FILTER_WIDTH + 1) * width if settings.filter else 0
    return (history * width if settings.positions == "learned" else 0) + 2 * width + settings.layers * block


ENCODERS = {"mean": lambda settings, history: 0, "gru": _gru, "transformer": _transformer}
