"""What a grid knows of the settings of each job: which ones a training does not read, and how its points are named."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recommend import CAUSAL, COUNTING, MODEL_NAMES, RecommendSettings
from hyperfocal.config.sections import LARGEST, Section

Unread = tuple[str, str, Container[Any]]
SOME = range(1, LARGEST + 1)
UNSAMPLED = ("focal", "bce", "asymmetric", "softmax")


@dataclass(frozen=True)
class Rules:
    """How the settings of one job become points.

    Attributes:
        job: what the command line calls it.
        settings: their class.
        unread: (a setting or a section, what decides whether it is read, the values of that for which it is not).
        fixed: settings and sections that cannot vary, for all points share the split.
        not_in_key: settings that change no result. The seed is in the key by itself; of the others only the threads
            change a result, in its last digits.
        story: whether `caps` and `gammas` are axes.
        bare: settings whose values name a point without them, as `gru` in place of `model.name=gru`.
        compared_on: what all points are scored on.
    """

    job: str
    settings: type[Section]
    unread: tuple[Unread, ...]
    fixed: tuple[str, ...]
    not_in_key: tuple[str, ...]
    story: bool
    bare: tuple[str, ...]
    compared_on: str


CLASSIFY = Rules(
    job="classify",
    settings=ClassifySettings,
    unread=(
        ("loss.gamma", "loss.name", ("bce", "softmax")),
        ("loss.alpha", "loss.name", ("bce", "asymmetric", "ntr_focal", "balanced", "softmax")),
        ("loss.weights", "loss.cap", ("off",)),
        ("head.width", "head.name", ("linear",)),
        ("head.dropout", "head.name", ("linear",)),
        ("decide.k", "decide.rule", ("half", "global", "per_label")),
        ("decide.objective", "decide.rule", ("half", "top_k")),
        ("decide.beta", "decide.objective", ("micro", "macro", "both")),
        ("decide.shrinkage", "decide.rule", ("half", "global", "top_k")),
        ("train.sparse_learning_rate", "features.kind", ("encoder",)),
        ("train.encoder_learning_rate", "features.finetune", (False,)),
        ("train.momentum", "train.optimizer", ("adam", "adamw", "rowwise_adagrad")),
        ("train.patience", "train.folds", SOME),  # no epoch is chosen
        ("train.metric", "train.folds", SOME),
    ),
    fixed=("seed", "data", "train.folds"),
    not_in_key=("seed", "data.stream", "train.threads", "train.checkpoint_seconds", "train.refit"),
    story=True,
    bare=(),
    compared_on="documents",
)
RECOMMEND = Rules(
    job="recommend",
    settings=RecommendSettings,
    unread=(
        ("loss", "model.name", COUNTING),
        ("train", "model.name", COUNTING),
        ("items", "model.name", ("concat_mlp", *COUNTING)),
        ("data.ahead", "model.name", ("concat_mlp", *COUNTING)),
        ("data.examples", "model.name", (*CAUSAL, *COUNTING)),
        ("model.embedding_width", "model.name", COUNTING),
        ("model.hidden_widths", "model.name", (*CAUSAL, *COUNTING)),
        ("model.dropout", "model.name", ("mean", *COUNTING)),
        ("model.layers", "model.name", ("mean", "concat_mlp", *COUNTING)),
        ("model.heads", "model.name", ("gru", "mean", "concat_mlp", *COUNTING)),
        ("model.positions", "model.name", ("gru", "mean", "concat_mlp", *COUNTING)),
        ("model.filter", "model.name", ("gru", "mean", "concat_mlp", *COUNTING)),
        ("model.feed_forward", "model.name", ("gru", "mean", "concat_mlp", *COUNTING)),
        ("model.blend", "model.name", MODEL_NAMES),  # points are compared without
        ("model.decay", "model.name", ("transformer", "gru", "concat_mlp", *COUNTING)),
        ("loss.gamma", "loss.name", ("bce", "softmax", "gbce", "sampled_softmax")),
        ("loss.alpha", "loss.name", ("bce", "asymmetric", "softmax", "gbce", "sampled_softmax")),
        ("loss.weights", "loss.cap", ("off",)),
        ("loss.tau", "loss.name", ("focal", "bce", "asymmetric", "gbce", "sampled_softmax")),
        ("loss.negatives", "loss.name", UNSAMPLED),
        ("train.momentum", "train.optimizer", ("adam", "adamw", "rowwise_adagrad")),
    ),
    fixed=("seed", "data", "items.features"),
    not_in_key=("seed", "data.stream", "train.threads", "train.checkpoint_seconds"),
    story=False,
    bare=("model.name", "loss.name"),
    compared_on="users",
)
RULES = {rules.settings: rules for rules in (CLASSIFY, RECOMMEND)}


def rules_of(settings: Section) -> Rules:
    """Return the rules of the job that the settings are of."""
    return RULES[type(settings)]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; an empty table stays as it is.

    >>> flatten({"seed": 1, "loss": {"gamma": 2.0}})
    {'seed': 1, 'loss.gamma': 2.0}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def flat_settings(settings: Section) -> dict[str, Any]:
    """Return dotted key -> value of all settings."""
    return flatten(msgspec.to_builtins(settings))


def unread(settings: Section) -> dict[str, Any]:
    """Return dotted key -> default of the settings that a training does not read, as gamma for bce."""
    flat, default = flat_settings(settings), flat_settings(type(settings)())
    found: dict[str, Any] = {}
    for place, decider, values in rules_of(settings).unread:
        if (flat | found)[decider] in values:
            found |= {key: default[key] for key in flat if key == place or key.startswith(f"{place}.")}
    return found
