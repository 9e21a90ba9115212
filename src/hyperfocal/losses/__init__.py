"""Losses over very many labels, with sparse positives, fused with the last linear layer."""

from hyperfocal.losses.asymmetric import AsymmetricLoss
from hyperfocal.losses.balanced import DistributionBalancedLoss
from hyperfocal.losses.focal import BCELoss, FocalLoss
from hyperfocal.losses.sampled import GBCELoss, SampledSoftmaxLoss
from hyperfocal.losses.separable import SeparableLoss
from hyperfocal.losses.sharded import ShardedLoss
from hyperfocal.losses.softmax import SoftmaxLoss
from hyperfocal.losses.weights import capped_weights, frequency_bias, log_frequencies, prior_bias

__all__ = [
    "AsymmetricLoss",
    "BCELoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "GBCELoss",
    "SampledSoftmaxLoss",
    "SeparableLoss",
    "ShardedLoss",
    "SoftmaxLoss",
    "capped_weights",
    "frequency_bias",
    "log_frequencies",
    "prior_bias",
]
