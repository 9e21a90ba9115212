"""Ask torch about its transforms. torch has no public function for that, and the private ones may change.

Where a version of torch lacks one, the answer is "no transform": ordinary training is not affected.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_FUNCTORCH: Any = getattr(torch._C, "_functorch", None)


def in_transform() -> bool:
    """Return whether a transform of torch.func is active."""
    level = getattr(_FUNCTORCH, "peek_interpreter_stack", None)
    return level is not None and level() is not None


def is_transformed(*tensors: Tensor | None) -> bool:
    """Return whether a transform of torch.func is active, or one of the tensors has a forward-mode tangent."""
    if in_transform():
        return True
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def is_older_batch(tensor: Tensor) -> bool:
    """Return whether a tensor is a batch of the older vmap, which calls no rule of an autograd function."""
    test = getattr(_FUNCTORCH, "is_legacy_batchedtensor", None)
    return test is not None and bool(test(tensor))
