from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from hyperfocal.config.numbers import as_finite, as_whole

NEITHER = [
    True,
    np.bool_(True),
    np.array(True),
    torch.tensor(True),
    "2",
    np.str_("2"),
    np.array("2"),
    b"2",
    None,
    pd.NA,
    pd.NaT,
    np.timedelta64(3, "s"),
    1 + 0j,
    np.complex64(1),
    torch.tensor(1 + 1j),
    [1],
    np.array([1]),
    torch.tensor([1]),
]


@pytest.mark.parametrize("value", NEITHER, ids=repr)
def test_what_is_no_number(value):
    assert as_whole(value) is None
    assert as_finite(value) is None


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3), pd.Series([3])[0]])
def test_integers(value):
    assert (as_whole(value), type(as_whole(value))) == (3, int)
    assert (as_finite(value), type(as_finite(value))) == (3.0, float)


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Decimal("0.5"), Fraction(1, 2)]
)
def test_fractions(value):
    assert as_whole(value) is None
    assert (as_finite(value), type(as_finite(value))) == (0.5, float)


@pytest.mark.parametrize("value", [float("inf"), np.nan, torch.tensor(np.inf), 10**400, Decimal("1e999")])
def test_numbers_that_are_no_finite_float(value):
    assert as_finite(value) is None


def test_an_integer_of_any_size():
    assert as_whole(10**400) == 10**400
