"""Every example runs as a program of its own and prints what it says it prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_sharded_labels_learns_the_same_in_two_processes(tmp_path):
    outcomes = []
    for start in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        command = [sys.executable, *start, EXAMPLES / "sharded_labels.py", "--epochs", "4"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr
        count, numbers = result.stdout.splitlines()
        outcomes.append([count.split()[0], *(float(word) for word in re.findall(r"\d\.\d+", numbers))])
    one, two = outcomes
    assert (one[0], two[0]) == ("1", "2")
    assert two[1:] == pytest.approx(one[1:], abs=2e-3)
    assert one[2] > 0.2  # at random 1 of 3,001
