"""Losses over very many labels, with sparse positives, fused with the last linear layer."""

from hyperfocal.losses.separable import BCELoss, FocalLoss, SeparableLoss
from hyperfocal.losses.weights import prior_bias

__all__ = ["BCELoss", "FocalLoss", "SeparableLoss", "prior_bias"]
