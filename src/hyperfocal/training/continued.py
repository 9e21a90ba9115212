"""The settings of an update, which continues what a fit has learnt."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from hyperfocal.config.numbers import as_whole
from hyperfocal.config.sections import LARGEST, TrainSettings
from hyperfocal.errors import ConfigError

Train = TypeVar("Train", bound=TrainSettings)
SLOWER = 3  # divides the learning rates: nothing reminds an update of the earlier examples


def continued(train: Train, epochs: int) -> Train:
    """Return the settings of a fit for an update: its epochs, and a third of the learning rate, falling to 0.

    Raises:
        ConfigError: `epochs` is not a whole number from 1 to LARGEST.
    """
    passes = as_whole(epochs)
    if passes is None or not 1 <= passes <= LARGEST:
        raise ConfigError(f"epochs = {epochs!r} is not allowed. Expected a whole number from 1 to {LARGEST:,}")
    return msgspec.structs.replace(
        train,
        epochs=passes,
        learning_rate=train.learning_rate / SLOWER,
        schedule="cosine",
        warmup_steps=0,
        patience=0,
    )
