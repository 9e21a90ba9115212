"""Every example runs as a program of its own and prints what it says it prints."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_own_training_loop_prints_its_table(tmp_path):
    command = [sys.executable, EXAMPLES / "own_training_loop.py", "--epochs", "2"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    title, header, *rows = result.stdout.splitlines()
    assert title.startswith("300 labels with ")
    assert header.split() == ["macro", "AP", "all", "head", "medium", "tail"]
    table = {name: [float(number) for number in numbers] for name, *numbers in map(str.split, rows)}
    assert list(table) == ["BCE", "focal", "DB", "softmax"]
    for together, head, medium, tail in table.values():
        assert 0 < tail < head < 1
        assert abs(together - (head + medium + tail) / 3) < 0.002  # three thirds of 100 labels each, rounded
    for name in ("BCE", "softmax"):  # after two epochs these have learnt: at random, AP is the label's frequency, 0.01
        assert table[name][0] > 0.1
