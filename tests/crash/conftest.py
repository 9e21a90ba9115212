import os
from pathlib import Path

import pytest
from crash_cases import make_good
from crash_points import Harness
from crash_shim import Lab, why_not


@pytest.fixture(scope="session")
def harness(tmp_path_factory):
    """Return the harness; print its numbers at the end, and write them to the file that CRASH_JSON names."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("crash")
    lab = Lab(folder / "lab")
    try:
        make_good(lab, folder / "good")
        harness = Harness(lab, folder / "good", folder / "box")
        yield harness
        print(f"\n{harness.tally.table()}")
        if name := os.environ.get("CRASH_JSON"):
            harness.tally.write(Path(name))
    finally:
        lab.close()
