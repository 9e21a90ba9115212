"""Open a run folder for training: resolve the settings, check that the folder fits, read and write checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sklearn.exceptions import NotFittedError

from hyperfocal.config.recipes import differences, from_toml, resolve, to_toml
from hyperfocal.config.sections import Section
from hyperfocal.distributed import is_first, on_first
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.storage.run_folder import CHECKPOINT, CONFIG, DATA, RunFolder
from hyperfocal.training.trainer import Checkpoint, Trainer

Job = TypeVar("Job", bound=Section)
NAMES = {"RecommendSettings": "recommend", "ClassifySettings": "classify"}


class UnfittedError(RunError, NotFittedError):
    """An estimator is used before it is fitted; scikit-learn knows this error too."""


def resolve_settings(
    kind: type[Job], recipe: str | Path | None, asked: dict[str, Any], resumed: RunFolder | None
) -> Job:
    """Return the settings of a new run, or the settings of the run to resume.

    Raises:
        ConfigError: a setting is wrong, or differs from the run to resume.
    """
    if resumed is None:
        return resolve(kind, recipe, asked)
    before = read_settings(kind, resumed)
    now = resolve(kind, recipe or resumed.path / CONFIG, asked)
    if changed := differences(before, now):
        raise ConfigError(
            f"run {resumed.path}: cannot resume with other settings ({'; '.join(changed)}). "
            "Give the settings of the first command or none, or start again with --overwrite"
        )
    return before


def open_run(
    out: str | Path | None, resolve: Callable[[RunFolder | None], Job], *, resume: bool, overwrite: bool
) -> tuple[RunFolder | None, bool, Job]:
    """Return the folder to write to, whether to resume the run in it, and the settings.

    Of several processes the first decides, and only it gets a folder.

    Args:
        out: path of the folder. None: no run is written.
        resolve: returns the settings, given the run to resume or None.
        resume: whether to continue an existing run.
        overwrite: whether to replace an existing run.

    Raises:
        RunError: the folder holds another run.
        ConfigError: a setting is wrong, or differs from the run to resume.
    """
    run = None if out is None else RunFolder(out)

    def decide() -> tuple[bool, Job]:
        if run is not None:
            run.refuse_taken(resume=resume, overwrite=overwrite)
        resumed = run if resume and run is not None and run.has(CONFIG) else None
        return resumed is not None, resolve(resumed)

    resumed, settings = on_first(decide)
    return run if is_first() else None, resumed, settings


def read_settings(kind: type[Job], run: RunFolder) -> Job:
    """Return the settings of a run.

    Raises:
        RunError: the run is of the other job, or its file of the data is damaged.
        ConfigError: its settings cannot be read.
    """
    name, identity = NAMES[kind.__name__], run.read_json(DATA)
    if not isinstance(identity, dict) or "fingerprint" not in identity:
        raise run.damaged(DATA, ValueError("it has no fingerprint"))
    job = identity.get("job", "recommend")  # the first versions had only this job
    if job != name:
        raise RunError(f"run {run.path}: is one of `{job}`, not of `{name}`. Use `hyperfocal {job}` for it")
    return from_toml(kind, run.read_text(CONFIG), str(run.path / CONFIG), whole=run.is_as_written(CONFIG))


def begin_run(run: RunFolder, settings: Section, fingerprint: str, features: str = "", *, resume: bool) -> None:
    """Write settings and checksums of a new run, or check that the run to resume is of the same data.

    Args:
        run: the folder.
        settings: of the run.
        fingerprint: checksum of the data and the split.
        features: checksum of the n-grams and the encoder of texts. "": no texts.
        resume: whether to resume the run in the folder.

    Raises:
        RunError: the run to resume has other data or features; the folder cannot be written.
    """
    identity = {"job": NAMES[type(settings).__name__], "fingerprint": fingerprint}
    identity |= {"features": features} if features else {}
    if not resume:
        run.clear()
        run.write_json(DATA, identity)
        run.write_text(CONFIG, to_toml(settings))
    elif run.read_json(DATA) != identity:
        raise RunError(
            f"run {run.path}: was trained on other data, with another split, other n-grams or another encoder, "
            "or by an earlier version. Give the same files to resume, or start again with --overwrite"
        )


def checkpoint_keeper(run: RunFolder | None) -> Callable[[Checkpoint], None]:
    """Return the function that a trainer calls with each checkpoint; without a run it does nothing."""
    if run is None:
        return lambda checkpoint: None
    return lambda checkpoint: run.write_checkpoint(checkpoint.tensors, checkpoint.state)


def restore(trainer: Trainer, run: RunFolder | None) -> None:
    """Restore a trainer from the newest undamaged checkpoint of the run; without a checkpoint it starts from scratch.

    Of several processes only the first has a run, and sends the checkpoint to the others.

    Raises:
        RunError: every checkpoint is damaged, or is of another model.
    """
    checkpoint = on_first(lambda: None if run is None else run.read_checkpoint())
    if checkpoint is not None:
        with nullcontext() if run is None else run.guard(CHECKPOINT):
            trainer.restore(Checkpoint(*checkpoint))
