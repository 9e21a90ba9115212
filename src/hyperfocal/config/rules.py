"""Rules of each job's settings: which a training does not read, which can vary in a grid, which name a point."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from hyperfocal.config.classify import ONE_RULES, SOFTMAX, ClassifySettings
from hyperfocal.config.recipes import flat_settings
from hyperfocal.config.recommend import CAUSAL, COUNTING, MODEL_NAMES, RecommendSettings
from hyperfocal.config.sections import LARGEST, Section

Unread = tuple[str, str, Container[Any]]  # a setting or section is not read if the second has one of the values
SOME = range(1, LARGEST + 1)
UNSAMPLED = ("focal", "bce", "asymmetric", "softmax")


@dataclass(frozen=True)
class Rules:
    """The rules of one job's settings."""

    job: str  # its name on the command line
    settings: type[Section]
    unread: tuple[Unread, ...]
    fixed: tuple[str, ...]  # settings and sections that cannot vary in a grid, because all points share the data split
    not_in_key: tuple[
        str, ...
    ]  # they change no result, threads only the last digits; the seed is in the key separately
    caps_and_gammas: bool  # whether `caps` and `gammas` are axes of a grid
    bare: tuple[str, ...]  # settings whose value alone names a point, as `gru` instead of `model.name=gru`
    compared_on: str  # what all points are scored on


CLASSIFY = Rules(
    job="classify",
    settings=ClassifySettings,
    unread=(
        ("loss.gamma", "loss.name", ("bce", "softmax")),
        ("loss.alpha", "loss.name", ("bce", "asymmetric", "ntr_focal", "balanced", *SOFTMAX)),
        ("loss.adjust", "loss.name", ("bce", "focal", "asymmetric", "ntr_focal", "balanced")),
        ("loss.weights", "loss.cap", ("off",)),
        ("head.width", "head.name", ("linear",)),
        ("head.dropout", "head.name", ("linear",)),
        ("decide.k", "decide.rule", ("half", "global", "per_label", *ONE_RULES)),
        ("decide.objective", "decide.rule", ("half", "top_k")),
        ("decide.beta", "decide.objective", ("micro", "macro", "both", "recall")),
        ("decide.minimum_one", "decide.rule", ONE_RULES),
        ("decide.shrinkage", "decide.rule", ("half", "global", "top_k")),
        ("train.sparse_learning_rate", "features.kind", ("encoder",)),
        ("train.encoder_learning_rate", "features.finetune", (False,)),
        ("train.momentum", "train.optimizer", ("adam", "adamw", "rowwise_adagrad")),
        ("train.patience", "train.folds", SOME),  # cross-validation chooses no epoch
    ),
    fixed=("seed", "data", "train.folds"),
    not_in_key=(
        *("seed", "data.stream", "train.threads", "train.checkpoint_seconds", "train.refit", "train.baselines"),
        *("data.fields", "data.vectors", "data.scaling"),  # the fingerprint of the data covers them
    ),
    caps_and_gammas=True,
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
        ("model.blend", "model.name", MODEL_NAMES),  # points are compared without a blend
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
    caps_and_gammas=False,
    bare=("model.name", "loss.name"),
    compared_on="users",
)
RULES = {rules.settings: rules for rules in (CLASSIFY, RECOMMEND)}


def rules_of(settings: Section) -> Rules:
    """Return the rules of the job that the settings belong to."""
    return RULES[type(settings)]


def unread(settings: Section) -> dict[str, Any]:
    """Return dotted key -> default of each setting that the training does not read, for example gamma with bce."""
    flat, default = flat_settings(settings), flat_settings(type(settings)())
    defaults: dict[str, Any] = {}
    for setting, decider, values in rules_of(settings).unread:
        if (flat | defaults)[decider] in values:
            defaults |= {key: default[key] for key in flat if key == setting or key.startswith(f"{setting}.")}
    return defaults
