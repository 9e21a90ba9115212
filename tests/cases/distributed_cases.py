"""Trainings to compare, step by step, between several processes and one; as a program, run by torchrun.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/cases/distributed_cases.py OUT CASE ...
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import polars as pl
import torch

from hyperfocal.classify.head import train_head
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.distributed import all_gather, is_first, processes
from hyperfocal.labels import SparseLabels
from hyperfocal.models.text_head import Features, SparseRows
from hyperfocal.recommend.network import train_network
from hyperfocal.recommend.prepare import prepare
from hyperfocal.training import trainer
from hyperfocal.training.watch import Watch

STEPS = 50  # of each case, with batches of 256
SGD = {"train.optimizer": "sgd", "train.learning_rate": 0.05}
SMALL = {"model.embedding_width": 8, "model.hidden_widths": [16, 8], "model.dropout": 0.0, "data.history": 4}
ABORTED = "terminate called without an active exception"  # once in about eight launches: docs/scale_training.md
TRIES = 5


def log(users=1_400, items=40):
    """Return a log in which an item's successor is likely; sequences of 6 to 9 items."""
    rows = [
        (user, (user * 7 + place * (1 + user % 3)) % items) for user in range(users) for place in range(6 + user % 4)
    ]
    return pl.DataFrame({"user": [f"u{user}" for user, _ in rows], "item": [f"i{item}" for _, item in rows]})


class Recorder(Watch):
    """A watcher of a training that records the loss of each step."""

    def __init__(self):
        self.losses, self._sum = [], 0.0

    def stepped(self, progress, steps):
        if progress.step:
            self.losses.append(progress.loss_sum - (self._sum if progress.step > 1 else 0.0))
            self._sum = progress.loss_sum


def recommend(**changes):
    """Train a network for 50 steps or a few more; return losses and weights."""
    settings = resolve(RecommendSettings, None, SMALL | {"train.batch_size": 256, "train.epochs": 12} | changes)
    data, recorder = prepare(log(), None, None, settings, None), Recorder()
    network, _ = train_network(data, settings, None, resume=False, watch=recorder)
    return recorder.losses, network.state_dict()


def classify(*, sparse, documents=1_281, num_labels=12, **changes):
    """Train a head over dense features, and sparse ones too: 6 steps per epoch, the last of one document."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(documents, 6, generator=generator).to(torch.get_default_dtype())
    truth = SparseLabels.from_dense(torch.rand(documents, num_labels, generator=generator) < 0.2)
    columns = torch.randint(0, 30, (documents * 3,), generator=generator)
    values = torch.rand(documents * 3, generator=generator).to(dense)
    rows = SparseRows(torch.arange(documents + 1) * 3, columns, values) if sparse else None
    asked = {"head.dropout": 0.0, "head.width": 16, "train.batch_size": 256, "train.epochs": 9, "train.patience": 0}
    settings = resolve(ClassifySettings, None, asked | {"train.sparse_learning_rate": 5.0} | changes)
    features, recorder = Features(rows, dense), Recorder()
    head, _ = train_head((features, truth), None, 30 if sparse else 0, settings, watch=recorder)
    return recorder.losses, head.state_dict()


CASES = {  # name -> (dtype, training)
    **{
        f"{model} {loss}": (
            torch.float32,
            lambda m=model, lo=loss: recommend(**{"model.name": m, "loss.name": lo, **SGD}),
        )
        for model in ("transformer", "concat_mlp")
        for loss in ("softmax", "focal")
    },
    "transformer adamw": (torch.float64, lambda: recommend(**{"train.clip_norm": 0.5, "loss.reduction": "positives"})),
    "gru sampled": (torch.float64, lambda: recommend(**{"model.name": "gru", "loss.name": "sampled_softmax"})),
    "gru sum": (
        torch.float64,
        lambda: recommend(**{"model.name": "gru", "loss.reduction": "sum", "train.clip_norm": 1}),
    ),
    "head": (torch.float32, lambda: classify(sparse=True, **SGD, **{"loss.name": "focal"})),
    "head adamw": (torch.float64, lambda: classify(sparse=True, **{"loss.reduction": "positives"})),
    "dense head": (
        torch.float32,
        lambda: classify(sparse=False, **SGD, **{"loss.name": "softmax", "loss.reduction": "mean"}),
    ),
}


def take(name):
    """Return losses and weights of a case."""
    dtype, training = CASES[name]
    before, trainer.LOG_STEPS = trainer.LOG_STEPS, 1
    torch.set_default_dtype(dtype)
    try:
        return training()
    finally:
        torch.set_default_dtype(torch.float32)
        trainer.LOG_STEPS = before


def launch(*arguments, **options):
    """Run a program in several processes as `launch_once` does, again while a thread of gloo aborts at the very end."""
    for _ in range(TRIES):
        done = launch_once(*arguments, **options)
        if ABORTED not in done.stderr:
            break
    return done


def launch_once(program, *arguments, count=2, timeout=900, **environment):
    """Run a program, a file or `-m` module, in several processes by torchrun; return the finished process."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [*torchrun, *program, *map(str, arguments)]
    paths = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends what it has started
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=60)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def main(out, names):
    with processes():
        for name in names:
            losses, weights = take(name)
            for tensor in weights.values():
                for other in all_gather(tensor):
                    assert torch.equal(other, tensor), "the weights of two processes differ"
            if is_first():
                torch.save((losses, weights), Path(out) / f"{name}.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
