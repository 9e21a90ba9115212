"""The limit of open files, in a separate process."""

import subprocess
import sys

import pytest

CODE = """
import resource
from hyperfocal.serve.descriptors import reserve
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400))
print(reserve({}), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("connections", "printed"),
    [(50, "50 250 400"), (200, "200 400 400"), (1_000, "200 400 400")],  # 200 descriptors are for other files
)
def test_the_limit_is_raised_to_what_connections_need_and_allowed(connections, printed):
    command = [sys.executable, "-c", CODE.format(connections)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.stdout.strip() == printed, ended.stderr
