"""The base of all settings: number types and the training section."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Fraction = Annotated[float, Meta(gt=0, lt=1)]
LARGEST = 2**31 - 1
AtLeastOne = Annotated[int, Meta(ge=1, le=LARGEST)]
AtLeastZero = Annotated[int, Meta(ge=0, le=LARGEST)]
NotNegative = Annotated[float, Meta(ge=0)]
Dropout = Annotated[float, Meta(ge=0, lt=1)]
Gamma = Annotated[float, Meta(ge=0, le=5)]
Alpha = Annotated[float, Meta(ge=0, le=1)] | Literal["none"]
Cap = Annotated[float, Meta(ge=1, le=1e6)] | Literal["none", "off"]  # none: weights without a limit; off: no weights
Weighting = Literal["inverse", "sqrt_inverse", "effective_number", "balanced"]
Reduction = Literal["positives", "batch", "mean", "sum"]
OptimizerName = Literal["sgd", "adam", "adamw", "rowwise_adagrad"]  # the last: one number of state per matrix row


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A group of settings."""

    @classmethod
    def implied(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return dotted key -> default of settings whose default depends on the given values, which are nested."""
        return {}


class TrainSettings(Section, frozen=True, kw_only=True):
    """The optimizer, its schedule, and when to stop."""

    optimizer: OptimizerName = "adam"
    learning_rate: Annotated[float, Meta(gt=0)] = 0.002
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9  # sgd only
    weight_decay: NotNegative = 0.0
    batch_size: AtLeastOne = 256  # examples per step
    epochs: AtLeastOne = 50  # at most
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: AtLeastZero = 0  # steps of linear warm-up, before either schedule
    clip_norm: NotNegative = 0.0  # largest gradient norm; 0 is off
    patience: AtLeastZero = 5  # epochs without a better validation metric before stopping; 0 is off
    metric: str = ""  # the validation metric that chooses the best epoch
    checkpoint_seconds: NotNegative = 30.0  # shortest time between two checkpoints
    threads: AtLeastZero = 0  # CPU threads, limited to the cores; 0 is one per core
