"""Objects whose arrays and tensors lie in buffers beside the rest, and are not copied on the way back."""

import numpy as np
import polars as pl
import pytest
import torch

from hyperfocal.grid.packing import Packed, pack, unpack


def frozen(packed):
    """Return the same from memory that may not be written to, as that of an object store."""
    for part in (packed.content, *packed.buffers):
        part.flags.writeable = False
    return packed


def owners(packed, address):
    """Return how many buffers hold an address."""
    return sum(part.ctypes.data <= address < part.ctypes.data + part.nbytes for part in packed.buffers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64, torch.bool])
def test_tensors_lie_in_the_buffers(dtype):
    tensor = (torch.arange(6) % 2).reshape(2, 3).to(dtype)
    packed = frozen(pack({"a": tensor}))
    found = unpack(packed)["a"]
    torch.testing.assert_close(found, tensor, rtol=0, atol=0)
    assert owners(packed, found.data_ptr()) == 1
    assert len(packed.content) < 500


def test_arrays_lie_in_the_buffers_and_the_same_stays_the_same():
    array, tensor = np.arange(1_000.0), torch.arange(1_000)
    packed = pack([array, array, tensor, tensor])
    first, second, third, fourth = unpack(packed)
    assert first is second
    assert third is fourth
    assert (first == array).all()
    assert owners(packed, first.ctypes.data) == 1
    assert len(packed.buffers) == 2


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, requires_grad=True),
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(2, 3).to_sparse(),
        torch.arange(6).reshape(2, 3).T,
        torch.zeros(0, 4),
        torch.tensor(2.5),
    ],
    ids=["bfloat16", "gradient", "parameter", "sparse", "turned", "empty", "scalar"],
)
def test_every_tensor_comes_back(value):
    found = unpack(frozen(pack(value)))
    assert (type(found), found.dtype, found.requires_grad) == (type(value), value.dtype, value.requires_grad)
    torch.testing.assert_close(found, value, rtol=0, atol=0)


def test_other_things_come_back():
    value = ("text", {"numbers": [1, 2.5, None]}, pl.Series("x", ["a", ""]))
    text, numbers, series = unpack(pack(value))
    assert (text, numbers) == value[:2]
    assert series.equals(value[2])


def test_what_was_unpacked_keeps_its_memory():
    found = unpack(Packed(*pack(torch.arange(100_000))))
    torch.testing.assert_close(found, torch.arange(100_000))
