"""What is known of the labels before training: where the output bias starts."""

import math

from hyperfocal.errors import ConfigError


def prior_bias(prior: float) -> float:
    """Return the logit at which a sigmoid gives the prior probability of a positive.

    bias = -log((1 - pi) / pi) = log(pi / (1 - pi)), a *negative* number for a rare label. Articles
    often print it without the minus sign: then every label starts at 1 - pi and training explodes.

    Args:
        prior: pi, the expected share of positives, in (0, 1).

    Raises:
        ConfigError: pi outside (0, 1).

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, section 4.1.

    >>> round(prior_bias(0.01), 4)
    -4.5951
    """
    if not 0 < prior < 1:
        raise ConfigError(f"prior = {prior!r} is not allowed. Expected a probability above 0 and below 1")
    return -math.log((1 - prior) / prior)
