"""Pack objects so that the processes of a machine can share the memory of their arrays."""

from __future__ import annotations

import io
import pickle
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHARED = (torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)  # that numpy has too


class Packed(NamedTuple):
    """An object as bytes that are not copied when they are mapped from shared memory."""

    content: NDArray[np.uint8]  # (C,), the pickled object without the memory of its arrays and tensors
    buffers: list[NDArray[np.uint8]]  # (S,) each, the memory of one array or tensor


def pack(value: Any) -> Packed:
    """Return an object with the memory of its numpy arrays and dense CPU tensors separate from the rest."""
    buffers: list[pickle.PickleBuffer] = []
    with io.BytesIO() as file:
        _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
        content = np.frombuffer(file.getvalue(), dtype=np.uint8)
    return Packed(content, [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers])


def unpack(packed: Packed) -> Any:
    """Return the object; its arrays and tensors use the memory of the buffers, and are read-only if that is."""
    return pickle.loads(packed.content.data, buffers=packed.buffers)


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays, because torch would copy their memory into the bytes."""

    def reducer_override(self, value: Any) -> Any:
        shared = type(value) is Tensor and value.layout is torch.strided and value.dtype in SHARED
        if shared and value.device.type == "cpu" and not value.requires_grad:
            return _as_tensor, (value.contiguous().numpy(),)
        return NotImplemented


def _as_tensor(array: NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to it
        return torch.from_numpy(array)
