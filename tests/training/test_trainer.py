"""The training loop: a small network with dropout, so that a wrong random state shows in the weights."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hyperfocal import machine
from hyperfocal.config.sections import TrainSettings
from hyperfocal.errors import ConfigError, TrainingError
from hyperfocal.machine import set_threads
from hyperfocal.storage.run_folder import CHECKPOINT, RunFolder
from hyperfocal.training import trainer
from hyperfocal.training.optimizers import RowwiseAdagrad, make_optimizer, schedule_factor
from hyperfocal.training.trainer import Checkpoint, Job, Trainer

EXAMPLES, BATCH, EPOCHS = 22, 5, 3  # 5 steps an epoch, the last of 2 examples
STEPS = 5
BASE = {"batch_size": BATCH, "epochs": EPOCHS, "patience": 0, "learning_rate": 0.05, "checkpoint_seconds": 1e9}
KINDS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3},
    "sgd without momentum": {"optimizer": "sgd", "momentum": 0.0},
    "adam": {"optimizer": "adam", "weight_decay": 1e-3},
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-2, "clip_norm": 0.5},
    "row-wise adagrad": {"optimizer": "rowwise_adagrad", "weight_decay": 1e-3},
    "adam with cosine": {"optimizer": "adam", "schedule": "cosine", "warmup_steps": 4},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def settings(**changes) -> TrainSettings:
    return TrainSettings(**{"metric": "map@3"} | BASE | changes)


@dataclass
class Trial:
    """A training, and what happened in it."""

    settings: TrainSettings
    seed: int = 0
    metrics: Callable[[int], float] | None = None  # of the epoch, from 0; else from the weights
    stop_at: tuple[int, ...] = ()  # steps in which Ctrl-C is pressed
    spoil: Callable[[Tensor, int], Tensor] = lambda loss, step: loss
    batches: list[list[int]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    saved: list[Checkpoint] = field(default_factory=list)
    watched: list[tuple[int, int, int]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)  # at each validation

    def __post_init__(self) -> None:
        torch.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.inputs, self.targets = torch.randn(EXAMPLES, 4), torch.randn(EXAMPLES, 1)
        torch.manual_seed(8)  # of dropout
        job = Job(self.model, self.loss, EXAMPLES, self.validate, self.settings, self.seed)
        self.trainer = Trainer(job, save=self.saved.append, watch=self.watch)

    def loss(self, index: Tensor) -> Tensor:
        if len(self.batches) in self.stop_at:
            signal.raise_signal(signal.SIGINT)
        assert self.model.training
        loss = (self.model(self.inputs[index]) - self.targets[index]).square().mean()
        loss = self.spoil(loss, len(self.batches))
        self.batches.append(index.tolist())
        self.losses.append(loss.item())
        return loss

    def validate(self) -> dict[str, float]:
        assert not self.model.training
        self.weights.append(weights(self.model))
        if self.metrics:
            return {"map@3": self.metrics(len(self.weights) - 1)}
        return {"map@3": -(self.model(self.inputs) - self.targets).square().mean().item(), "other": 0.5}

    def watch(self, progress, steps) -> None:
        self.watched.append((progress.epoch, progress.step, steps))

    def history(self) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in self.trainer.progress.history]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether all weights are the same, byte for byte."""
    return (
        all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one) and one.keys() == other.keys()
    )


class TestLoop:
    def test_each_epoch_visits_each_example_once_in_an_order_of_its_own(self):
        trial = Trial(settings())
        assert trial.trainer.run()
        assert [len(batch) for batch in trial.batches] == [5, 5, 5, 5, 2] * EPOCHS
        starts = range(0, EPOCHS * STEPS, STEPS)
        epochs = [[example for batch in trial.batches[start : start + STEPS] for example in batch] for start in starts]
        assert all(sorted(epoch) == list(range(EXAMPLES)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == EPOCHS

    def test_the_seed_decides_the_order(self):
        orders = []
        for seed in (0, 0, 1):
            trial = Trial(settings(), seed=seed)
            trial.trainer.run()
            orders.append(trial.batches)
        assert orders[0] == orders[1]
        assert orders[0] != orders[2]

    @every_kind
    def test_against_a_plain_loop(self, kind):
        trial = Trial(settings(**KINDS[kind]), metrics=lambda epoch: epoch)
        trial.trainer.run()
        plain = Trial(settings(**KINDS[kind]))
        model, options = plain.model, {"weight_decay": 0.0, "momentum": 0.9, "clip_norm": 0.0} | KINDS[kind]
        optimizers = {
            "sgd": lambda p: torch.optim.SGD(
                p, 0.05, momentum=options["momentum"], weight_decay=options["weight_decay"]
            ),
            "adam": lambda p: torch.optim.Adam(p, 0.05, weight_decay=options["weight_decay"]),
            "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=options["weight_decay"]),
            "rowwise_adagrad": lambda p: RowwiseAdagrad(p, 0.05, weight_decay=options["weight_decay"]),
        }
        optimizer = optimizers[options["optimizer"]](model.parameters())
        for step, batch in enumerate(trial.batches):
            if "schedule" in options:  # 4 steps of warm-up, then half a cosine over the other 11
                factor = (step + 1) / 4 if step < 4 else (1 + math.cos(math.pi * (step - 4) / 11)) / 2
                optimizer.param_groups[0]["lr"] = 0.05 * factor
            optimizer.zero_grad()
            (model(plain.inputs[batch]) - plain.targets[batch]).square().mean().backward()
            if options["clip_norm"]:
                nn.utils.clip_grad_norm_(model.parameters(), options["clip_norm"])
            optimizer.step()
        for name, value in weights(model).items():
            torch.testing.assert_close(trial.model.state_dict()[name], value)

    def test_history_has_a_row_an_epoch(self):
        trial = Trial(settings())
        trial.trainer.run()
        for number, row in enumerate(trial.trainer.progress.history):
            losses = trial.losses[number * STEPS : (number + 1) * STEPS]
            assert row["epoch"] == number + 1
            assert row["loss"] == pytest.approx(sum(losses) / STEPS)
            assert row["train_seconds"] > 0
            assert row["valid_seconds"] > 0
            assert row["other"] == 0.5  # every metric, not only the one that decides
            assert row["map@3"] < 0

    def test_watch_is_called_every_few_steps_and_after_each_epoch(self, monkeypatch):
        monkeypatch.setattr(trainer, "LOG_STEPS", 2)
        trial = Trial(settings(epochs=2))
        trial.trainer.run()
        an_epoch = [(0, 2, STEPS), (0, 4, STEPS), (0, 5, STEPS), (1, 0, STEPS)]
        assert trial.watched == an_epoch + [(epoch + 1, step, steps) for epoch, step, steps in an_epoch]

    def test_checkpoints_are_saved_when_due_and_at_the_end(self, monkeypatch):
        monkeypatch.setattr(trainer, "LOG_STEPS", 2)
        trial = Trial(settings(checkpoint_seconds=0.0, epochs=2))
        trial.trainer.run()
        places = [(saved.state["epoch"], saved.state["step"]) for saved in trial.saved]
        assert places == [(0, 2), (0, 4), (0, 5), (1, 2), (1, 4), (1, 5), (2, 0)]
        rare = Trial(settings(epochs=2))
        rare.trainer.run()
        assert [saved.state["epoch"] for saved in rare.saved] == [2]

    def test_clipping_bounds_the_step(self):
        trial = Trial(settings(optimizer="sgd", momentum=0.0, clip_norm=1e-3, epochs=1), metrics=lambda _: 1.0)
        before = weights(trial.model)
        trial.trainer.run()
        moved = math.sqrt(
            sum((value - before[name]).square().sum().item() for name, value in weights(trial.model).items())
        )
        assert 0 < moved <= STEPS * 0.05 * 1e-3 * 1.001


class TestBest:
    def test_the_best_weights_are_left_in_the_model(self):
        trial = Trial(settings(epochs=4), metrics=[0.1, 0.4, 0.4, 0.2].__getitem__)
        assert trial.trainer.run()
        assert trial.trainer.progress.best_epoch == 2  # of two alike, the first
        assert trial.trainer.progress.best == 0.4
        assert same(weights(trial.model), trial.weights[1])
        assert not same(weights(trial.model), trial.weights[3])

    @pytest.mark.parametrize(
        ("values", "patience", "epochs"),
        [
            ([0.1, 0.2, 0.2, 0.1, 0.9], 2, 4),  # 2 epochs without a better one
            ([0.1, 0.2, 0.2, 0.1, 0.9], 3, 5),
            ([0.5, 0.4, 0.3, 0.2, 0.1], 1, 2),
            ([0.5, 0.4, 0.3, 0.2, 0.1], 0, 5),  # 0 is off
            ([0.0, 0.0, 0.0, 0.0, 0.0], 2, 3),  # 0 is better than nothing
            ([-3.0, -2.0, -1.0, -1.5, -2.0], 2, 5),
        ],
    )
    def test_early_stopping(self, values, patience, epochs):
        trial = Trial(settings(epochs=5, patience=patience), metrics=values.__getitem__)
        assert trial.trainer.run()
        assert len(trial.trainer.progress.history) == epochs
        assert trial.trainer.progress.best == max(values[:epochs])

    def test_the_named_metric_decides(self):
        trial = Trial(settings(metric="recall@5"))
        trial.trainer.job = Job(**vars(trial.trainer.job) | {"validate": lambda: {"map@3": 0.9, "recall@5": 0.1}})
        trial.trainer.run()
        assert trial.trainer.progress.best == 0.1


class TestNoNumber:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("step", [0, 6, 9])
    def test_a_loss_that_is_no_number(self, value, step):
        trial = Trial(settings(), spoil=lambda loss, now: loss * value if now == step else loss)
        with pytest.raises(TrainingError) as caught:
            trial.trainer.run()
        epoch = step // STEPS + 1
        assert str(caught.value).startswith(
            f"the loss is {value} in epoch {epoch}, step {step % STEPS + 1}. Try a smaller"
        )
        assert "train.learning_rate (now 0.05) or `settings={'train.clip_norm': 1}`" in str(caught.value)
        assert len(trial.weights) == epoch - 1
        assert not trial.saved  # the checkpoint before stays

    def test_a_metric_that_is_no_number(self):
        with pytest.raises(TrainingError, match="the validation metric map@3 is not a number"):
            Trial(settings(), metrics=lambda _: math.nan).trainer.run()

    def test_a_metric_that_validation_does_not_know(self):
        with pytest.raises(
            ConfigError, match=r"train\.metric = 'hit@7' is not among the validation metrics: map@3, other"
        ):
            Trial(settings(metric="hit@7")).trainer.run()


class TestResume:
    @every_kind
    @pytest.mark.parametrize("stop", [0, 2, STEPS - 1, STEPS, STEPS + 3, EPOCHS * STEPS - 1])
    def test_it_is_bit_exact(self, kind, stop, tmp_path):
        whole = Trial(settings(**KINDS[kind]))
        assert whole.trainer.run()
        first = Trial(settings(**KINDS[kind]), stop_at=(stop,))
        assert not first.trainer.run()
        assert len(first.batches) == stop + 1  # the step was not cut in half
        run = RunFolder(tmp_path)
        run.write_tensors(CHECKPOINT, first.saved[-1].tensors, state=first.saved[-1].state)
        second = Trial(settings(**KINDS[kind]))
        torch.manual_seed(99)
        second.trainer.restore(Checkpoint(*run.read_tensors(CHECKPOINT)))
        assert second.trainer.run()
        assert first.batches + second.batches == whole.batches
        assert first.losses + second.losses == whole.losses
        assert same(weights(second.model), weights(whole.model))
        assert same(second.trainer.checkpoint().tensors, whole.trainer.checkpoint().tensors)  # optimizer, random state
        assert second.history() == whole.history()

    def test_at_every_step_and_again(self):
        """Stopped after each step, 15 times."""
        whole = Trial(settings(**KINDS["adamw"]))
        whole.trainer.run()
        checkpoint, batches = None, []
        for _ in range(EPOCHS * STEPS):
            part = Trial(settings(**KINDS["adamw"]), stop_at=(0,))
            if checkpoint:
                part.trainer.restore(checkpoint)
            assert not part.trainer.run()
            checkpoint, batches = part.saved[-1], batches + part.batches
        last = Trial(settings(**KINDS["adamw"]))
        last.trainer.restore(checkpoint)
        assert last.trainer.run()
        assert (batches, last.batches) == (whole.batches, [])
        assert same(weights(last.model), weights(whole.model))

    def test_from_checkpoints_saved_on_the_way(self, monkeypatch):
        monkeypatch.setattr(trainer, "LOG_STEPS", 2)
        whole = Trial(settings(**KINDS["sgd"], checkpoint_seconds=0.0))
        whole.trainer.run()
        for checkpoint in whole.saved:
            for _ in range(2):  # a checkpoint is not used up
                again = Trial(settings(**KINDS["sgd"]))
                again.trainer.restore(checkpoint)
                assert again.trainer.run()
                assert same(weights(again.model), weights(whole.model))
                assert again.history() == whole.history()

    def test_a_checkpoint_does_not_move_on(self):
        trial = Trial(settings(**KINDS["adam"]), stop_at=(2,))
        trial.trainer.run()
        checkpoint = trial.saved[0]
        before = {name: value.clone() for name, value in checkpoint.tensors.items()}
        trial.trainer.run()
        assert same(checkpoint.tensors, before)
        assert checkpoint.state["history"] == []

    def test_early_stopping_goes_on_counting(self):
        values = [0.5, 0.4, 0.3, 0.2, 0.1]
        first = Trial(settings(epochs=5, patience=2), metrics=values.__getitem__, stop_at=(2 * STEPS + 1,))
        assert not first.trainer.run()
        second = Trial(settings(epochs=5, patience=2), metrics=lambda epoch: values[epoch + 2])
        second.trainer.restore(first.saved[-1])
        assert second.trainer.run()
        assert len(second.trainer.progress.history) == 3
        assert same(weights(second.model), first.weights[0])  # the best, of before the interruption

    def test_a_finished_training_is_finished(self):
        whole = Trial(settings())
        whole.trainer.run()
        again = Trial(settings())
        again.trainer.restore(whole.saved[-1])
        assert again.trainer.run()
        assert again.batches == []
        assert same(weights(again.model), weights(whole.model))


class WideAndDeep(nn.Module):
    """A table whose gradient is a sparse tensor, of the rows of the batch, beside dense layers with dropout."""

    ROWS = 40

    def __init__(self, *, sparse: bool = True) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
        self.table = nn.Embedding(self.ROWS, 2, sparse=sparse)

    def forward(self, inputs: Tensor, rows: Tensor) -> Tensor:
        return self.deep(inputs) + self.table(rows).sum(1)


class SparseTrial(Trial):
    """A training with a sparse parameter: example n reads rows n and n + 1 of the table; 23 to 39 are nobody's."""

    RATE = 0.3

    def __post_init__(self) -> None:
        torch.manual_seed(7)
        self.model = WideAndDeep()
        self.inputs, self.targets = torch.randn(EXAMPLES, 4), torch.randn(EXAMPLES, 2)
        self.tables = []  # before each step
        torch.manual_seed(8)  # of dropout
        table = self.model.table.weight
        options = {"sparse": [table], "sparse_learning_rate": self.RATE}
        job = Job(self.model, self.loss, EXAMPLES, self.validate, self.settings, self.seed, **options)
        self.trainer = Trainer(job, save=self.saved.append, watch=self.watch)

    def error(self, index: Tensor) -> Tensor:
        return (self.model(self.inputs[index], torch.stack([index, index + 1], 1)) - self.targets[index]).square()

    def loss(self, index: Tensor) -> Tensor:
        if len(self.batches) in self.stop_at:
            signal.raise_signal(signal.SIGINT)
        self.tables.append(self.model.table.weight.detach().clone())
        self.batches.append(index.tolist())
        loss = self.error(index).mean()
        self.losses.append(loss.item())
        return loss

    def validate(self) -> dict[str, float]:
        self.weights.append(weights(self.model))
        epoch = len(self.weights) - 1
        return {"map@3": self.metrics(epoch) if self.metrics else -self.error(torch.arange(EXAMPLES)).mean().item()}


class SlowTrial(Trial):
    """A training whose last layer has a learning rate of its own."""

    RATE = 0.002

    def __post_init__(self) -> None:
        super().__post_init__()
        options = {"slow": list(self.model[3].parameters()), "slow_learning_rate": self.RATE}
        job = Job(self.model, self.loss, EXAMPLES, self.validate, self.settings, self.seed, **options)
        self.trainer = Trainer(job, save=self.saved.append, watch=self.watch)


class TestSlowParameters:
    @every_kind
    def test_against_an_optimizer_of_their_own(self, kind):
        """The last layer takes every step with the settings' optimizer and schedule, at its own rate."""
        chosen = settings(**KINDS[kind])
        trial = SlowTrial(chosen, metrics=lambda epoch: epoch)
        trial.trainer.run()
        twin = SlowTrial(chosen)
        optimizers = [make_optimizer(twin.model[layer].parameters(), chosen) for layer in (0, 3)]
        for step, batch in enumerate(trial.batches):
            factor = schedule_factor(chosen, step, EPOCHS * STEPS)
            for optimizer, rate in zip(optimizers, (0.05, SlowTrial.RATE), strict=True):
                optimizer.param_groups[0]["lr"] = rate * factor
            twin.model.zero_grad()
            (twin.model(twin.inputs[batch]) - twin.targets[batch]).square().mean().backward()
            if chosen.clip_norm:
                nn.utils.clip_grad_norm_(twin.model.parameters(), chosen.clip_norm)
            for optimizer in optimizers:
                optimizer.step()
        for name, value in weights(twin.model).items():
            torch.testing.assert_close(trial.model.state_dict()[name], value)

    @every_kind
    @pytest.mark.parametrize("stop", [0, STEPS - 1, STEPS + 2])
    def test_resumed_bit_for_bit(self, kind, stop, tmp_path):
        whole = SlowTrial(settings(**KINDS[kind]))
        assert whole.trainer.run()
        first = SlowTrial(settings(**KINDS[kind]), stop_at=(stop,))
        assert not first.trainer.run()
        run = RunFolder(tmp_path)
        run.write_tensors(CHECKPOINT, first.saved[-1].tensors, state=first.saved[-1].state)
        second = SlowTrial(settings(**KINDS[kind]))
        torch.manual_seed(99)
        second.trainer.restore(Checkpoint(*run.read_tensors(CHECKPOINT)))
        assert second.trainer.run()
        assert first.losses + second.losses == whole.losses
        assert same(weights(second.model), weights(whole.model))
        assert same(second.trainer.checkpoint().tensors, whole.trainer.checkpoint().tensors)

    def test_one_optimizer_has_all_parameters(self):
        (optimizer,) = SlowTrial(settings(**KINDS["adam"])).trainer.optimizers
        assert [(group["lr"], len(group["params"])) for group in optimizer.param_groups] == [(0.002, 2), (0.05, 2)]


class TestSparseParameters:
    @every_kind
    @pytest.mark.parametrize("clip_norm", [0.0, 0.05, 1e3])
    def test_plain_sgd_whatever_the_others_have(self, kind, clip_norm):
        """The table takes w - rate * factor * gradient, without momentum, moments or decay; a dense twin shows it."""
        chosen = settings(**KINDS[kind] | {"clip_norm": clip_norm})
        trial = SparseTrial(chosen, metrics=lambda epoch: epoch)
        trial.trainer.run()
        twin = SparseTrial(chosen)
        twin.model.table.sparse = False
        table = twin.model.table.weight
        optimizers = [make_optimizer(twin.model.deep.parameters(), chosen), torch.optim.SGD([table], SparseTrial.RATE)]
        for step, batch in enumerate(trial.batches):
            factor = schedule_factor(chosen, step, EPOCHS * STEPS)
            optimizers[0].param_groups[0]["lr"] = 0.05 * factor
            optimizers[1].param_groups[0]["lr"] = SparseTrial.RATE * factor
            twin.model.zero_grad()
            twin.error(torch.tensor(batch)).mean().backward()
            if clip_norm:
                nn.utils.clip_grad_norm_(twin.model.parameters(), clip_norm)  # of all, dense and sparse
            for optimizer in optimizers:
                optimizer.step()
        for name, value in weights(twin.model).items():
            torch.testing.assert_close(trial.model.state_dict()[name], value)

    def test_a_step_touches_only_the_rows_of_its_batch(self):
        trial = SparseTrial(settings(**KINDS["adamw"]), metrics=lambda epoch: epoch)
        trial.trainer.run()
        tables = [*trial.tables, trial.model.table.weight.detach()]
        for step, batch in enumerate(trial.batches):
            moved = (tables[step] != tables[step + 1]).any(1).nonzero()[:, 0].tolist()
            assert moved == sorted({row for example in batch for row in (example, example + 1)})

    @pytest.mark.parametrize("kind", ["adamw", "adam with cosine", "sgd"])
    @pytest.mark.parametrize("stop", [0, STEPS - 1, STEPS + 2])
    def test_resumed_bit_for_bit(self, kind, stop, tmp_path):
        whole = SparseTrial(settings(**KINDS[kind]))
        assert whole.trainer.run()
        first = SparseTrial(settings(**KINDS[kind]), stop_at=(stop,))
        assert not first.trainer.run()
        run = RunFolder(tmp_path)
        run.write_tensors(CHECKPOINT, first.saved[-1].tensors, state=first.saved[-1].state)
        second = SparseTrial(settings(**KINDS[kind]))
        torch.manual_seed(99)
        second.trainer.restore(Checkpoint(*run.read_tensors(CHECKPOINT)))
        assert second.trainer.run()
        assert first.losses + second.losses == whole.losses
        assert same(weights(second.model), weights(whole.model))
        assert same(second.trainer.checkpoint().tensors, whole.trainer.checkpoint().tensors)

    def test_the_optimizer_keeps_nothing_for_them(self):
        trial = SparseTrial(settings(**KINDS["adam"]))
        trial.trainer.run()
        kept = [value for name, value in trial.saved[-1].tensors.items() if name.startswith("optimizer.")]
        assert len(kept) == 3 * len(list(trial.model.deep.parameters()))  # step and two moments
        assert all(WideAndDeep.ROWS not in value.shape for value in kept)

    def test_without_them_there_is_one_optimizer(self):
        assert len(Trial(settings()).trainer.optimizers) == 1
        assert len(SparseTrial(settings()).trainer.optimizers) == 2


class TestInterrupt:
    def test_the_first_one_ends_the_step_the_second_one_the_program(self):
        trial = Trial(settings(), stop_at=(3,))
        trial.spoil = lambda loss, step: signal.raise_signal(signal.SIGINT) or loss if step == 3 else loss
        with pytest.raises(KeyboardInterrupt):
            trial.trainer.run()
        assert not trial.saved

    def test_one_in_the_last_validation_counts(self):
        def pressed(epoch):
            if epoch == 1:
                signal.raise_signal(signal.SIGINT)
            return float(epoch)

        trial = Trial(settings(epochs=2), metrics=pressed)
        assert not trial.trainer.run()
        assert trial.saved[-1].state["epoch"] == 2

    @pytest.mark.parametrize("end", ["finished", "stopped", "failed"])
    def test_the_handler_is_put_back(self, end):
        before = signal.getsignal(signal.SIGINT)
        trial = Trial(settings(), stop_at=(1,) if end == "stopped" else ())
        if end == "failed":
            trial.spoil = lambda loss, _: loss * math.nan
            with pytest.raises(TrainingError):
                trial.trainer.run()
        else:
            assert trial.trainer.run() == (end == "finished")
        assert signal.getsignal(signal.SIGINT) is before

    def test_the_model_is_left_as_it_is(self):
        trial = Trial(settings(), stop_at=(STEPS + 1,), metrics=lambda _: 1.0)
        assert not trial.trainer.run()
        now = weights(trial.model)
        assert not same(now, trial.weights[0])
        assert same(
            {name.removeprefix("model."): v for name, v in trial.saved[-1].tensors.items() if name[:5] == "model"}, now
        )

    def test_in_another_thread_there_is_no_ctrl_c(self):
        trial, ended = Trial(settings()), []
        thread = threading.Thread(target=lambda: ended.append(trial.trainer.run()))
        thread.start()
        thread.join()
        assert ended == [True]

    def test_a_real_one_leaves_a_checkpoint(self, tmp_path):
        """A process is sent SIGINT, as Ctrl-C does; another one goes on and ends like an uninterrupted one."""
        command = [sys.executable, "-W", "error", __file__, str(tmp_path)]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, **pipes, text=True, env=environment)
        assert process.stdout.readline() == "training\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate("go on\n", timeout=60)
        assert (process.returncode, rest) == (0, "stopped\n")
        tensors, state = RunFolder(tmp_path).read_tensors(CHECKPOINT)
        assert (state["epoch"], state["step"]) == (0, 4)
        whole = Trial(settings(**KINDS["adam"]))
        assert whole.trainer.run()
        resumed = Trial(settings(**KINDS["adam"]))
        resumed.trainer.restore(Checkpoint(tensors, state))
        assert resumed.trainer.run()
        assert len(resumed.batches) == EPOCHS * STEPS - 4
        assert same(weights(resumed.model), weights(whole.model))


def slow_training(folder: Path) -> None:
    """Train until Ctrl-C; run by `test_a_real_one_leaves_a_checkpoint` as a program."""
    run = RunFolder(folder)

    def wait(loss: Tensor, step: int) -> Tensor:
        if step == 3:
            print("training")
            sys.stdin.readline()  # in which the signal comes
        return loss

    trial = Trial(settings(**KINDS["adam"]), spoil=wait)
    trial.trainer._save = lambda checkpoint: run.write_tensors(CHECKPOINT, checkpoint.tensors, state=checkpoint.state)
    print("finished" if trial.trainer.run() else "stopped")


class TestSchedule:
    @pytest.mark.parametrize(
        ("changes", "total", "expected"),
        [
            ({}, 4, [1, 1, 1, 1]),
            ({"warmup_steps": 4}, 6, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]),
            ({"schedule": "cosine"}, 4, [1, (1 + math.sqrt(0.5)) / 2, 1 / 2, (1 - math.sqrt(0.5)) / 2]),
            (
                {"schedule": "cosine", "warmup_steps": 2},
                6,
                [1 / 2, 1, 1, (1 + math.sqrt(0.5)) / 2, 1 / 2, (1 - math.sqrt(0.5)) / 2],
            ),
            ({"schedule": "cosine", "warmup_steps": 9}, 4, [1 / 9, 2 / 9, 3 / 9, 4 / 9]),  # never ends
            ({"schedule": "cosine", "warmup_steps": 1}, 1, [1]),
        ],
    )
    def test_factors(self, changes, total, expected):
        found = [schedule_factor(settings(**changes), step, total) for step in range(total)]
        assert found == pytest.approx(expected, abs=1e-12)

    def test_the_last_step_is_not_lost(self):
        factors = [schedule_factor(settings(schedule="cosine"), step, 1000) for step in range(1000)]
        assert factors == sorted(factors, reverse=True)
        assert 0 < factors[-1] < 1e-5

    @pytest.mark.parametrize(
        ("name", "kind", "group"),
        [
            ("sgd", torch.optim.SGD, {"momentum": 0.5, "weight_decay": 0.25, "lr": 0.05}),
            ("adam", torch.optim.Adam, {"weight_decay": 0.25, "lr": 0.05, "decoupled_weight_decay": False}),
            ("adamw", torch.optim.AdamW, {"weight_decay": 0.25, "lr": 0.05, "decoupled_weight_decay": True}),
            ("rowwise_adagrad", RowwiseAdagrad, {"weight_decay": 0.25, "lr": 0.05}),
        ],
    )
    def test_optimizers(self, name, kind, group):
        model = nn.Linear(2, 3)
        optimizer = make_optimizer(model.parameters(), settings(optimizer=name, momentum=0.5, weight_decay=0.25))
        assert type(optimizer) is kind
        (found,) = optimizer.param_groups
        assert {key: found[key] for key in group} == group
        assert list(found["params"]) == list(model.parameters())


class TestThreads:
    @pytest.fixture(autouse=True)
    def _before(self, monkeypatch, tmp_path):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
        monkeypatch.setattr(machine, "CPU_SHARE", tmp_path / "cpu.max")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    @pytest.mark.parametrize(("asked", "threads"), [(0, 4), (1, 1), (3, 3), (4, 4), (5, 4), (1000, 4)])
    def test_never_more_than_the_cores(self, asked, threads):
        assert set_threads(asked) == threads
        assert torch.get_num_threads() == threads

    @pytest.mark.parametrize(("asked", "threads"), [(0, 1), (1, 1), (2, 2), (9, 4)])
    def test_the_environment_says_how_many_unless_asked(self, monkeypatch, asked, threads):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert set_threads(asked) == threads

    @pytest.mark.parametrize("value", ["", "all", "0", "-1", "64"])
    def test_an_environment_that_says_nothing_useful(self, monkeypatch, value):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert set_threads(0) == 4

    @pytest.mark.parametrize(
        ("share", "threads"),
        [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
    )
    def test_a_containers_share(self, share, threads):
        machine.CPU_SHARE.write_text(share + "\n")
        assert set_threads(0) == set_threads(99) == threads


def test_the_state_of_a_checkpoint_is_json():
    trial = Trial(settings(), stop_at=(1,))
    trial.trainer.run()
    assert json.loads(json.dumps(trial.saved[-1].state)) == trial.saved[-1].state
    assert all(isinstance(value, Tensor) for value in trial.saved[-1].tensors.values())


if __name__ == "__main__":
    slow_training(Path(sys.argv[1]))
