"""The memory that a training needs at least: estimated before anything is written, and the error if it is not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from hyperfocal.config.recipes import flat_settings
from hyperfocal.config.sections import Section, TrainSettings
from hyperfocal.errors import ConfigError, RunError, TrainingError, in_units, is_of_memory, memory_message
from hyperfocal.machine import largest_memory
from hyperfocal.storage.run_folder import CHECKPOINT, MODEL, RunFolder

Settings = TypeVar("Settings", bound=Section)
NUMBER = 4  # bytes of a float32


@dataclass(frozen=True)
class Estimate(Generic[Settings]):
    """The memory of a training, as a function of its settings.

    Attributes:
        count: settings -> bytes that the training needs at least.
        keys: the settings that the bytes grow with, by their dotted keys.
        subject: of the training, for messages: "10,000 items".
    """

    count: Callable[[Settings], int]
    keys: Sequence[str]
    subject: str


def check_memory(settings: Settings, estimate: Estimate[Settings]) -> None:
    """Raise ConfigError if a training surely needs more memory than this process can ever have.

    The message names the setting that needs most: the one whose default, or else whose half, needs least.
    """
    needed = estimate.count(settings)
    limit, name = largest_memory()
    if needed > limit:
        key = _dominant(settings, estimate)
        value = json.dumps(flat_settings(settings)[key], separators=(",", ":"))
        raise ConfigError(
            f"`settings={{'{key}': {value}}}` needs about {in_units(needed)} of memory for {estimate.subject}, but "
            f"{name} allows {in_units(limit)}. Lower {key}"
        )


def state_bytes(parameters: int, settings: TrainSettings) -> int:
    """Return the bytes of float32 parameters in training: 4 P (3 + s).

    There are P numbers of weights, of gradients and of the best weights so far, and s P numbers of the optimizer's
    state: 2 for adam and adamw, 1 for sgd with momentum, 0 otherwise.
    """
    states = {"adam": 2, "adamw": 2, "sgd": int(settings.momentum > 0)}.get(settings.optimizer, 0)
    return NUMBER * parameters * (3 + states)


@contextmanager
def begun(run: RunFolder | None) -> Iterator[None]:
    """Remove a run that has begun if its training fails before the first checkpoint, so that it can begin again.

    An error for too little memory, of Python, numpy or torch, becomes a TrainingError.
    """
    try:
        yield
    except Exception as error:
        if run is not None and not run.has(MODEL) and not any((run.path / CHECKPOINT).parent.glob("[!.]*")):
            with suppress(RunError):  # the error of the training says more
                run.clear()
        if is_of_memory(error):
            raise TrainingError(memory_message(error)) from error
        raise


def _dominant(settings: Settings, estimate: Estimate[Settings]) -> str:
    flat, default = flat_settings(settings), flat_settings(type(settings)())
    usual = {key: _at_most(flat[key], default[key]) for key in estimate.keys}
    needs = {key: _count_with(settings, estimate, key, value) for key, value in usual.items()}
    if min(needs.values()) >= estimate.count(settings):
        needs = {key: _count_with(settings, estimate, key, _half(flat[key])) for key in estimate.keys}
    return min(needs, key=needs.__getitem__)


def _count_with(settings: Settings, estimate: Estimate[Settings], dotted: str, value: Any) -> int:
    section, _, key = dotted.partition(".")
    changed = msgspec.structs.replace(getattr(settings, section), **{key: value})
    return estimate.count(msgspec.structs.replace(settings, **{section: changed}))


def _at_most(value: Any, default: Any) -> Any:
    return default if isinstance(value, list | tuple) else min(value, default)


def _half(value: Any) -> Any:
    return [max(each // 2, 1) for each in value] if isinstance(value, list | tuple) else max(value // 2, 1)
