"""No input, however damaged, ends in anything but an error of ours.

    python -m pytest tests/fuzz -m slow        100,000 inputs, those of each target anew each time

Prints the inputs of each target, those that were refused, and the targets that failed, each with the smallest input.
FUZZ_INPUTS is another number, over all targets.
"""

import os
from math import ceil

import pytest
from fuzz_targets import DRAWN, TARGETS
from hypothesis import HealthCheck, Phase, given, note, settings

from hyperfocal.errors import HyperfocalError

FEW = 100  # inputs of each target in the default tests, the same ones each time
MANY = ceil(int(os.environ.get("FUZZ_INPUTS", "100000")) / (len(TARGETS) - 0.9 * len(DRAWN)))
PLAIN = settings(
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


def fuzz(name, target, counts, inputs, **options):
    @settings(PLAIN, max_examples=ceil(inputs / 10) if name in DRAWN else inputs, **options)
    @given(target.inputs)
    def read(value):
        counts["inputs"] += 1
        try:
            target.read(value)
        except HyperfocalError:
            counts["refused"] += 1
        except BaseException:
            note(f"{name}: {value!r:.2000}")
            raise

    read()
    counts["passed"] = True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_crashes(name, target_of, counts):
    fuzz(name, target_of(name), counts, FEW, derandomize=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_many_crashes(name, target_of, counts):
    fuzz(name, target_of(name), counts, MANY)
