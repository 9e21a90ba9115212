"""The memory that training a network on a log needs at least."""

from __future__ import annotations

from hyperfocal.config.recommend import COUNTING, RecommendSettings
from hyperfocal.data.examples import Windows
from hyperfocal.distributed import world_size
from hyperfocal.models.parameter_counts import count_parameters
from hyperfocal.recommend.prepare import Prepared
from hyperfocal.training.memory import NUMBER, Estimate, check_memory, state_bytes

KEYS = (
    "model.embedding_width",
    "model.hidden_widths",
    "model.layers",
    "model.feed_forward",
    "data.history",
    "train.batch_size",
)


def check_network_memory(data: Prepared, settings: RecommendSettings) -> None:
    """Raise ConfigError if the network of the settings surely does not fit in memory; baselines are not checked."""
    if settings.model.name in COUNTING:
        return

    def count(settings: RecommendSettings) -> int:
        parameters = count_parameters(settings.model, len(data.vocabulary), settings.data.history, data.features)
        return state_bytes(parameters, settings.train) + NUMBER * batch_numbers(data, settings)

    check_memory(settings, Estimate(count, KEYS, f"{len(data.vocabulary):,} items"))


def batch_numbers(data: Prepared, settings: RecommendSettings) -> int:
    """Return how many numbers the backward pass of an average batch needs at least, in one of several processes.

    For each position of a window, with D = embedding_width, N = layers and F = feed_forward:

        mean          D, the embedded item
        gru           D + N D, and the output of each layer
        transformer   D + N (6 + F) D: in each block the two norms, queries, keys, values, attention and the wide layer

    concat_mlp: T D for the embedded history of an example, and its hidden widths.
    """
    model, examples = settings.model, data.examples
    rows = min(settings.train.batch_size, len(examples))
    if not isinstance(examples, Windows):
        return rows * (settings.data.history * model.embedding_width + sum(model.hidden_widths)) // world_size()
    positions = rows * int(examples.lengths.sum()) // max(len(examples), 1)
    vectors = {"gru": model.layers, "transformer": model.layers * (6 + model.feed_forward)}.get(model.name, 0)
    return positions * model.embedding_width * (1 + vectors) // world_size()
