"""The training loop of both jobs: a batch is a set of example numbers, a loss is a number.

A checkpoint holds the model, optimizer, best weights, random state and position inside the epoch, so that a resumed
training takes the steps that an uninterrupted one would have taken.

Several processes (`distributed`) take each step together: each computes the gradient of its share of the batch, the
gradients are summed, and all take the same step. So the result is that of one process, up to rounding.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from hyperfocal.config.sections import TrainSettings
from hyperfocal.data.examples import batches_at_random
from hyperfocal.distributed import (
    all_reduce,
    any_process,
    gather_objects,
    is_first,
    on_first,
    rank,
    share_of,
    sum_gradients,
    sum_number,
    world_size,
)
from hyperfocal.errors import ConfigError, TrainingError
from hyperfocal.interrupts import came
from hyperfocal.training.optimizers import clip_gradients, make_optimizer, schedule_factor

LOG_STEPS = 50  # steps between two reads of the loss; each read waits for the device


class Portion(NamedTuple):
    """The loss of some examples, and the divisor of their sum (1 if it would be 0). None: the loss is the sum."""

    loss: Tensor
    divisor: float | None


@dataclass(frozen=True)
class Job:
    """A model, its loss, and how to train it.

    Attributes:
        model: its parameters are trained in place.
        loss: (B,) example numbers -> scalar loss; a Portion if it is not the mean over the examples.
        num_examples: examples per epoch.
        validate: returns the metrics of the current model. None: keep the weights after the last epoch.
        settings: the optimizer, its schedule, and when to stop.
        seed: of the order of the examples.
        sparse: parameters whose gradients are sparse tensors of few rows. Plain SGD trains them, at
            `sparse_learning_rate`, and changes only those rows.
        batches: generator -> example numbers of each batch of an epoch, always the same number of batches. None:
            random batches of all examples.
        minutes: no epoch begins after this time; 0 is off.
        slow: parameters that the settings' optimizer trains at `slow_learning_rate`, for example an encoder's.
    """

    model: nn.Module
    loss: Callable[[Tensor], Tensor | Portion]
    num_examples: int
    validate: Callable[[], dict[str, float]] | None
    settings: TrainSettings
    seed: int
    sparse: Sequence[nn.Parameter] = ()
    sparse_learning_rate: float = 1.0
    batches: Callable[[torch.Generator], Sequence[Tensor]] | None = None
    minutes: float = 0.0
    slow: Sequence[nn.Parameter] = ()
    slow_learning_rate: float = 1e-5


@dataclass
class Progress:
    """The position of a training, its best epoch and its history.

    Attributes:
        epoch: completed epochs.
        step: completed steps of the current epoch.
        loss_sum: sum of the losses of these steps.
        best: best value of the validation metric so far.
        best_epoch: the epoch of that value.
        history: one row per epoch: epoch, loss, metrics, seconds.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a resumed training needs: named tensors and a JSON-able state."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Trainer:
    """Trains a job, from the start or from a checkpoint.

    Args:
        job: what to train.
        save: called with a checkpoint at the end, after an interrupt, and between two steps if the last call was
            `checkpoint_seconds` ago.
        watch: called with (progress, steps per epoch) every 50 steps and after each epoch, as `Watch.stepped`.

    Of several processes the first validates, and its checkpoints hold the random state of each. `run` and `checkpoint`
    must be called in all processes.
    """

    def __init__(
        self,
        job: Job,
        *,
        save: Callable[[Checkpoint], None] = lambda _: None,
        watch: Callable[[Progress, int], None] = lambda *_: None,
    ) -> None:
        self.job = job
        self.progress = Progress()
        self.optimizers = _make_optimizers(job)
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.best_weights = _copy(job.model)
        self.steps = len(self._batches())
        self._save, self._watch = save, watch
        self._saved_at = time.monotonic()

    def run(self) -> bool:
        """Train to the end and leave the best weights in the model.

        Returns:
            False if Ctrl-C stopped it; then a checkpoint is saved, and the model keeps its current weights.

        Raises:
            TrainingError: the loss is infinite or nan, or the validation metric is nan; another process is gone.
            ConfigError: `validate` does not return the metric that chooses the best epoch.
        """
        with _interrupt_flag() as interrupted:
            while not self._finished():
                if not self._epoch(interrupted):
                    self._save_checkpoint()
                    return False
            self._save_checkpoint()
            if any_process(interrupted.raised):  # in the last validation
                return False
        if self.job.validate is not None:
            self.job.model.load_state_dict(self.best_weights)
        return True

    def _finished(self) -> bool:
        progress, settings = self.progress, self.job.settings
        without_progress = progress.epoch - progress.best_epoch
        seconds = sum(row["train_seconds"] + row["valid_seconds"] for row in progress.history)
        late = 0 < self.job.minutes * 60 <= seconds
        return progress.epoch >= settings.epochs or 0 < settings.patience <= without_progress or late

    def _epoch(self, interrupted: _Flag) -> bool:
        """Take the remaining steps of an epoch and validate; return False if interrupted."""
        started, progress = time.monotonic(), self.progress
        self.job.model.train()
        losses: list[Tensor] = []
        for index in self._batches()[progress.step :]:
            losses.append(self._step(index))
            progress.step += 1
            stop = any_process(interrupted.raised)
            if stop or progress.step % LOG_STEPS == 0 or progress.step == self.steps:
                self._log(losses)
                losses.clear()
            if stop:
                return False
        self._end_epoch(time.monotonic() - started)
        return True

    def _batches(self) -> Sequence[Tensor]:
        """Return the batches of the current epoch, the same after a resume."""
        generator = torch.Generator().manual_seed(self.job.seed * 1_000_003 + self.progress.epoch)
        if self.job.batches is not None:
            return self.job.batches(generator)
        return batches_at_random(self.job.num_examples, self.job.settings.batch_size, generator, seed=self.job.seed)

    def _step(self, index: Tensor) -> Tensor:
        settings = self.job.settings
        done = self.progress.epoch * self.steps + self.progress.step
        factor = schedule_factor(settings, done, settings.epochs * self.steps)
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            optimizer.zero_grad()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss = self._loss(index)
        loss.backward()
        sum_gradients(self.job.model.parameters())
        if settings.clip_norm:
            clip_gradients(self.job.model, settings.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()

    def _loss(self, index: Tensor) -> Tensor:
        """Return the loss of a batch; in one of several processes, what this process adds to it.

        A process without examples computes the first one with weight 0, so that all have the same gradients to sum.
        """
        share = share_of(index)
        result = self.job.loss(share if len(share) else index[:1])
        loss, divisor = result if isinstance(result, Portion) else (result, len(share))
        if world_size() == 1:
            return loss
        if divisor is None:
            return loss * bool(len(share))
        own = float(divisor) if len(share) else 0.0
        total = sum_number(own)
        return loss * (max(own, 1) / max(total, 1) if len(share) else 0)

    def _log(self, losses: list[Tensor]) -> None:
        progress = self.progress
        first = progress.step - len(losses) + 1
        for step, loss in enumerate(all_reduce(torch.stack(losses)).tolist(), first):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} in epoch {progress.epoch + 1}, step {step}. Try a smaller "
                    f"train.learning_rate (now {self.job.settings.learning_rate}) or "
                    "`settings={'train.clip_norm': 1}`"
                )
            progress.loss_sum += loss  # one by one: the sum does not depend on LOG_STEPS
        self._watch(progress, self.steps)
        due = time.monotonic() - self._saved_at >= self.job.settings.checkpoint_seconds
        if any_process(due and is_first()):
            self._save_checkpoint()
            self._saved_at = time.monotonic()

    def _end_epoch(self, train_seconds: float) -> None:
        started, progress = time.monotonic(), self.progress
        self.job.model.eval()
        metrics = on_first(self._validate)
        progress.epoch += 1
        self._keep_best(metrics)
        seconds = {"train_seconds": train_seconds, "valid_seconds": time.monotonic() - started}
        seconds = on_first(lambda: seconds)  # all processes stop by the clock of the first
        progress.history.append({"epoch": progress.epoch, "loss": progress.loss_sum / self.steps, **metrics, **seconds})
        progress.step, progress.loss_sum = 0, 0.0
        self._watch(progress, self.steps)

    def _validate(self) -> dict[str, float]:
        if self.job.validate is None:
            return {}
        with torch.inference_mode():
            return self.job.validate()

    def _keep_best(self, metrics: dict[str, float]) -> None:
        progress = self.progress
        if self.job.validate is None:
            progress.best_epoch = progress.epoch
        elif (value := self._value(metrics)) > progress.best:
            progress.best, progress.best_epoch = value, progress.epoch
            self.best_weights = _copy(self.job.model)

    def _value(self, metrics: dict[str, float]) -> float:
        name = self.job.settings.metric
        if name not in metrics:
            raise ConfigError(f"train.metric = {name!r} is not among the validation metrics: {', '.join(metrics)}")
        if math.isnan(metrics[name]):
            raise TrainingError(f"the validation metric {name} is not a number. Give validation data with true labels")
        return metrics[name]

    def _save_checkpoint(self) -> None:
        """Save a checkpoint; of several processes the first saves, and the others send it their random state."""
        random = gather_objects(_random_states())
        if is_first():
            self._save(self.checkpoint(random))

    def checkpoint(self, random: Sequence[dict[str, Tensor]] = ()) -> Checkpoint:
        """Return everything that `restore` needs; `random` are the random states of all processes, if known."""
        tensors = {f"model.{name}": value for name, value in _copy(self.job.model).items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for number, state in self.optimizers[0].state_dict()["state"].items():  # plain SGD has none
            copies = {name: value.clone() for name, value in state.items() if value is not None}
            tensors |= {f"optimizer.{number}.{name}": value for name, value in copies.items()}
        for number, states in enumerate(random or gather_objects(_random_states())):
            tensors |= {f"random.{_of_process(name, number)}": state for name, state in states.items()}
        return Checkpoint(tensors, asdict(self.progress))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same job."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}, "random": {}}
        for name, tensor in checkpoint.tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.job.model.load_state_dict(groups["model"])
        self.best_weights = groups["best"]
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["optimizer"].items():
            number, _, key = name.partition(".")
            states.setdefault(int(number), {})[key] = tensor.clone()  # the optimizer writes into it
        param_groups = self.optimizers[0].state_dict()["param_groups"]
        self.optimizers[0].load_state_dict({"state": states, "param_groups": param_groups})
        _set_random_states({name: groups["random"].get(_of_process(name, rank())) for name in ("cpu", "cuda")})
        self.progress = Progress(**deepcopy(checkpoint.state))


def seed_process(seed: int) -> None:
    """Seed torch's random numbers, used by dropout, with a different number in each of several processes."""
    torch.manual_seed(seed + 1_000_003 * rank())


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_states(states: dict[str, Tensor | None]) -> None:
    """Set the random states; a process without a state in the checkpoint keeps its seed."""
    if (state := states["cpu"]) is not None:
        torch.set_rng_state(state)
    if (state := states["cuda"]) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state)


def _of_process(name: str, number: int) -> str:
    return f"{name}.{number}" if number else name


def _make_optimizers(job: Job) -> list[Optimizer]:
    """Return the optimizer that the settings name, then the optimizer of the sparse parameters if there are any."""
    separate = {id(parameter) for parameter in (*job.sparse, *job.slow)}
    groups: list[dict[str, Any]] = [{"params": [p for p in job.model.parameters() if id(p) not in separate]}]
    if job.slow:
        groups.insert(0, {"params": list(job.slow), "lr": job.slow_learning_rate})
    optimizers = [make_optimizer(groups, job.settings)]
    return [*optimizers, SGD(job.sparse, job.sparse_learning_rate)] if job.sparse else optimizers


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@dataclass
class _Flag:
    """A flag without a lock: the next signal may interrupt the handler inside threading.Event.set, which takes one."""

    raised: bool = False


@contextmanager
def _interrupt_flag() -> Iterator[_Flag]:
    """Turn the first Ctrl-C into a flag, so that it does not interrupt a step; a second Ctrl-C raises.

    The flag is raised at once if a command had a Ctrl-C before, whose exception a library has swallowed.

    In one of several processes every Ctrl-C sets the flag, and so does SIGTERM: torchrun repeats a Ctrl-C that all
    processes got, and sends SIGTERM when one of them has ended or its host is asked to stop.
    """
    interrupted = _Flag(came())
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    several = world_size() > 1

    def stop(*_: object) -> None:
        interrupted.raised = True
        if not several:
            signal.signal(signal.SIGINT, handlers[signal.SIGINT])

    caught = (signal.SIGINT, signal.SIGTERM) if several else (signal.SIGINT,)
    handlers = {number: signal.getsignal(number) for number in caught}
    for number in caught:
        signal.signal(number, stop)
    try:
        yield interrupted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
