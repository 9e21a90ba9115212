"""Scores of a classifier whose documents have one label each, in addition to those of many labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import torch
from torch import Tensor

from hyperfocal.config.classify import ONE_RULES, DecisionSettings
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.one_label import class_calibration_error, class_scores, log_loss, resampled_class_scores
from hyperfocal.offsets import fit_temperature


def tuned_rule(settings: DecisionSettings) -> DecisionSettings:
    """Return the settings of the tuned decisions that are scored: with "argmax" those of "balanced"."""
    return msgspec.structs.replace(settings, rule="balanced") if settings.rule in ONE_RULES else settings


def cross_temperatures(scores: Tensor, truth: SparseLabels, halves: Tensor) -> Tensor:
    """Return (N,) the temperature of each document, fitted on the half that it is not in.

    Args:
        scores: (N, L) logits.
        truth: N rows over L labels.
        halves: (N,) int64, the half of each document.
    """
    temperatures = torch.ones(len(scores))
    for half in halves.unique().tolist():
        others = (halves != half).nonzero()[:, 0]
        temperatures[halves == half] = fit_temperature(scores[others], truth.select(others))
    return temperatures


def one_label_values(
    decided: Mapping[str, Sequence[SparseLabels]], truth: SparseLabels, weights: Tensor
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return accuracy and balanced accuracy of decisions, and the same in resamples; means as in `score_labels`.

    Args:
        decided: name -> N rows over L labels, of each cross-fit.
        truth: N rows over L labels.
        weights: (R, N) of the resamples.
    """
    values, resamples = dict[str, float](), dict[str, Tensor]()
    for prefix, fits in decided.items():
        each = [class_scores(labels, truth) for labels in fits]
        values |= {f"{prefix}.{name}": sum(one[name] for one in each) / len(fits) for name in each[0]}
        for place, labels in enumerate(fits):
            for name, part in resampled_class_scores(labels, truth, weights[place :: len(fits)]).items():
                whole = resamples.setdefault(f"{prefix}.{name}", part.new_empty(len(weights)))
                whole[place :: len(fits)] = part
    return values, resamples


def calibration_values(scores: Tensor, truth: SparseLabels, temperature: Tensor | float) -> dict[str, float]:
    """Return log loss and calibration error with a temperature, and before, with the temperature 1.

    Args:
        scores: (N, L) logits.
        truth: N rows over L labels.
        temperature: of all documents, or (N, 1).
    """
    before, after = scores.softmax(1), (scores / temperature).softmax(1)
    return {
        "log_loss": log_loss(after, truth),
        "log_loss_before": log_loss(before, truth),
        "calibration_error": class_calibration_error(after, truth),
        "calibration_error_before": class_calibration_error(before, truth),
    }
