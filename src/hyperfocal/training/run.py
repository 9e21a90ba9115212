"""What both jobs do with a run folder before they train: find the settings, and make sure that the folder fits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from hyperfocal.config.recipes import differences, from_toml, resolve, to_toml
from hyperfocal.config.sections import Section
from hyperfocal.distributed import is_first, on_first
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.storage.run_folder import CHECKPOINT, CONFIG, DATA, RunFolder
from hyperfocal.training.trainer import Checkpoint, Trainer

Job = TypeVar("Job", bound=Section)
NAMES = {"RecommendSettings": "recommend", "ClassifySettings": "classify"}


def resolve_settings(
    kind: type[Job], recipe: str | Path | None, asked: dict[str, Any], resumed: RunFolder | None
) -> Job:
    """Return the settings of a new run, or those of the run to resume.

    Raises:
        ConfigError: a setting is wrong, or differs from what the run to resume has.
    """
    if resumed is None:
        return resolve(kind, recipe, asked)
    before = read_settings(kind, resumed)
    now = resolve(kind, recipe or resumed.path / CONFIG, asked)
    if changed := differences(before, now):
        raise ConfigError(
            f"run {resumed.path}: cannot resume with other settings ({'; '.join(changed)}). "
            "Give the first command's settings or none at all, or start anew with --overwrite"
        )
    return before


def open_run(
    out: str | Path | None, resolve: Callable[[RunFolder | None], Job], *, resume: bool, overwrite: bool
) -> tuple[RunFolder | None, bool, Job]:
    """Return the folder to write to, whether a run in it is to be resumed, and the settings.

    Of several processes the first decides, and only it has a folder.

    Args:
        out: path of the folder, or None.
        resolve: from the run to resume, or None, to the settings.
        resume: whether to continue a run that is there.
        overwrite: whether to replace it.

    Raises:
        RunError: the folder holds another run.
        ConfigError: a setting is wrong, or differs from what the run to resume has.
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
        RunError: the run is of the other job, or does not say of which.
        ConfigError: its settings cannot be read.
    """
    asked, identity = NAMES[kind.__name__], run.read_json(DATA)
    if not isinstance(identity, dict) or "fingerprint" not in identity:
        raise run.damaged(DATA, ValueError("it has no fingerprint"))
    job = identity.get("job", "recommend")  # the only one there was at first
    if job != asked:
        raise RunError(f"run {run.path}: is one of `{job}`, not of `{asked}`. Use `hyperfocal {job}` for it")
    return from_toml(kind, run.read_text(CONFIG), str(run.path / CONFIG), whole=run.is_as_written(CONFIG))


def begin_run(run: RunFolder, settings: Section, fingerprint: str, features: str = "", *, resume: bool) -> None:
    """Write what makes the folder a run, or make sure that the run to resume is of the same data.

    Args:
        run: the folder.
        settings: of the run.
        fingerprint: checksum of the data and the split.
        features: checksum of what texts are turned into: of n-grams and encoder; "" without texts.
        resume: whether the run is to be there already.

    Raises:
        RunError: it is of other data, or was begun with other features; it cannot be written.
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
            "or by an earlier version. Give the same files to resume, or start anew with --overwrite"
        )


def checkpoint_keeper(run: RunFolder | None) -> Callable[[Checkpoint], None]:
    """Return what a trainer calls with each checkpoint: it is kept in the run, if there is one."""
    if run is None:
        return lambda checkpoint: None
    return lambda checkpoint: run.write_checkpoint(checkpoint.tensors, checkpoint.state)


def restore(trainer: Trainer, run: RunFolder | None) -> None:
    """Set a trainer back to the newest checkpoint of the run that is whole; without one it starts anew.

    Of several processes only the first has a run, and gives the others what it reads.

    Raises:
        RunError: no checkpoint is whole, or they are of another model.
    """
    found = on_first(lambda: None if run is None else run.read_checkpoint())
    if found is not None:
        with nullcontext() if run is None else run.guard(CHECKPOINT):
            trainer.restore(Checkpoint(*found))
