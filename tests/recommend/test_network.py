"""The losses of `recommend` as its settings name them."""

from __future__ import annotations

import pytest
import torch

from hyperfocal.config.recommend import LossSettings
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, FocalLoss, SoftmaxLoss
from hyperfocal.recommend.network import LOSSES, make_loss

COUNTS = torch.tensor([99, 49, 9, 0])
LABELS = SparseLabels.from_lists([[0], [2], [3]], num_labels=4)
LOGITS = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)


def value(loss: torch.nn.Module) -> float:
    torch.manual_seed(0)  # of the losses that draw
    return float(loss.from_logits(LOGITS, LABELS))


class TestMakeLoss:
    @pytest.mark.parametrize(
        ("settings", "same"),
        [
            (LossSettings(name="bce"), BCELoss(reduction="batch")),
            (LossSettings(name="focal", gamma=1.0, alpha="none"), FocalLoss(1.0, None, reduction="batch")),
            (LossSettings(), SoftmaxLoss(reduction="batch")),
        ],
    )
    def test_is_the_loss_of_that_name(self, settings, same):
        assert value(make_loss(settings, COUNTS)) == value(same)

    def test_weights_positives_by_count_up_to_the_cap(self):
        found = make_loss(LossSettings(cap=7.0), COUNTS).positive_weight
        torch.testing.assert_close(found, torch.tensor([1, 99 / 49, 7, 7]))

    @pytest.mark.parametrize("name", sorted(LOSSES))
    def test_every_loss_takes_the_weights(self, name):
        plain, weighted = (make_loss(LossSettings(name=name, cap=cap), COUNTS) for cap in ("off", 7.0))
        assert value(weighted) > value(plain)

    def test_tau_adds_the_smoothed_log_frequencies(self):
        frequency = torch.tensor([100, 50, 10, 1], dtype=torch.float64) / 161
        shifted = LOGITS + 0.5 * frequency.log()
        expected = torch.nn.functional.cross_entropy(shifted, torch.tensor([0, 2, 3]))
        assert value(make_loss(LossSettings(tau=0.5), COUNTS)) == pytest.approx(float(expected), rel=1e-6)
