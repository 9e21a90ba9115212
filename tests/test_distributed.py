"""Several processes train what one process trains: real ones, started by torchrun, over gloo."""

from pathlib import Path

import pytest
import torch

import distributed_cases
from distributed_cases import CASES, STEPS, launch, take

PROGRAM = [distributed_cases.__file__]
QUICK = ("concat_mlp focal", "head")


def compare(names, folder, *, count=2):
    """Train cases in several processes and alone; losses of every step and weights after the last have to agree."""
    done = launch(PROGRAM, folder, *names, count=count)
    assert done.returncode == 0, done.stderr
    for name in names:
        losses, weights = torch.load(Path(folder) / f"{name}.pt")
        alone, expected = take(name)
        assert len(losses) == len(alone) >= STEPS
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(alone), atol=1e-5, rtol=1e-5)
        for key, tensor in expected.items():
            torch.testing.assert_close(
                weights[key], tensor, atol=1e-5, rtol=0, msg=lambda text, at=(name, key): f"{at} {text}"
            )


def test_two_processes_train_what_one_trains(tmp_path):
    compare(QUICK, tmp_path)


@pytest.mark.slow
def test_every_model_and_loss(tmp_path):
    compare([name for name in CASES if name not in QUICK], tmp_path)


@pytest.mark.slow
def test_three_processes(tmp_path):
    compare(["transformer focal", "gru sampled", "head adamw"], tmp_path, count=3)
