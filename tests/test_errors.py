import pytest

from hyperfocal import errors
from hyperfocal.errors import ConfigError, DataError, HyperfocalError, LeakError, RunError, did_you_mean


@pytest.mark.parametrize("kind", [DataError, LeakError, ConfigError, RunError])
def test_one_base_catches_every_error(kind):
    assert issubclass(kind, HyperfocalError)
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", [DataError, LeakError, ConfigError])
def test_a_wrong_value_is_also_a_value_error(kind):
    assert issubclass(kind, ValueError)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("gama", " Did you mean 'gamma'?"),
        ("GAMMA", " Did you mean 'gamma'?"),
        ("alhpa", " Did you mean 'alpha'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_did_you_mean_names_the_nearest_or_nothing(typed, hint):
    assert did_you_mean(typed, ["gamma", "alpha"]) == hint


def test_did_you_mean_without_anything_allowed():
    assert did_you_mean("gamma", []) == ""
