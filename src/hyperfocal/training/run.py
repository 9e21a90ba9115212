"""Open a run folder for training: resolve the settings, check that the folder fits, train with checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from msgspec import convert, to_builtins
from sklearn.exceptions import NotFittedError

from hyperfocal.config.recipes import differences, from_toml, resolve, to_toml
from hyperfocal.config.sections import Section
from hyperfocal.data.reading import ReadingPlan
from hyperfocal.distributed import is_first, on_first
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.storage.manifest import is_as_written, unfinish
from hyperfocal.storage.run_folder import CHECKPOINT, CONFIG, DATA, RunFolder
from hyperfocal.training.trainer import Checkpoint, Job, Trainer, seed_process
from hyperfocal.training.watch import Watch

Settings = TypeVar("Settings", bound=Section)
Origin = tuple[Path, str]  # a folder, and `RunFolder.state` of the run in it
READING = "reading"  # the plan, in the file of the data
LOGS = "logs"  # checksums of the logs, or documents, of a fit and its updates, in the file of the data
NAMES = {"RecommendSettings": "recommend", "ClassifySettings": "classify"}


class UnfittedError(RunError, NotFittedError):
    """An estimator is used before it is fitted; scikit-learn knows this error too."""


def resolve_settings(
    kind: type[Settings],
    recipe: str | Path | None,
    asked: dict[str, Any],
    resumed: RunFolder | None,
    settings: Any = None,
) -> Settings:
    """Return the settings of a new run, or the settings of the run to resume.

    Args:
        kind: the settings of a job.
        recipe: path of a TOML file, or None.
        asked: dotted key -> value of the parameters of an estimator; None is not given.
        resumed: the run to resume, or None.
        settings: dotted key -> value, which win over `asked`; or None.

    Raises:
        ConfigError: a setting is wrong, or differs from the run to resume; `settings` is no dictionary.
    """
    if not isinstance(settings, Mapping | None):
        expected = "a dictionary of dotted keys and values, such as {'train.epochs': 5}"
        raise ConfigError(f"settings: a {type(settings).__name__} is not allowed. Expected {expected}")
    asked = asked | dict(settings or {})
    if resumed is None:
        return resolve(kind, recipe, asked)
    before = read_settings(kind, resumed)
    now = resolve(kind, recipe or resumed.path / CONFIG, asked)
    if changed := differences(before, now):
        raise ConfigError(
            f"run {resumed.path}: cannot resume with other settings ({'; '.join(changed)}). "
            "Give the settings of the first command or none, or start again with `overwrite=True`"
        )
    return before


@contextmanager
def open_run(
    out: str | Path | None, resolve: Callable[[RunFolder | None], Settings], *, resume: bool, overwrite: bool
) -> Iterator[tuple[RunFolder | None, bool, Settings]]:
    """Give the folder to write to, whether to resume the run in it, and the settings; no other process may write there.

    Of several processes the first decides, and only it gets a folder.

    Args:
        out: path of the folder. None: no run is written.
        resolve: returns the settings, given the run to resume or None.
        resume: whether to continue an existing run.
        overwrite: whether to replace an existing run.

    Raises:
        RunError: the folder holds another run, or another process writes to it.
        ConfigError: a setting is wrong, or differs from the run to resume.
    """
    run = None if out is None else RunFolder(out)
    with ExitStack() as stack:

        def decide() -> tuple[bool, Settings]:
            if run is not None:
                run.refuse_taken(resume=resume, overwrite=overwrite)
                stack.enter_context(run.writing())
                run.refuse_taken(resume=resume, overwrite=overwrite)  # another process may have been faster
            resumed = run if resume and run is not None and run.has(CONFIG) else None
            return resumed is not None, resolve(resumed)

        resumed, settings = on_first(decide)
        yield run if is_first() else None, resumed, settings


def read_settings(kind: type[Settings], run: RunFolder) -> Settings:
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
    return from_toml(kind, run.read_text(CONFIG), str(run.path / CONFIG), whole=is_as_written(run, CONFIG))


def data_facts(plan: ReadingPlan | None, counts: Mapping[str, Any], logs: Sequence[str] = ()) -> dict[str, Any]:
    """Return what data.json stores in addition to the fingerprint: the plan, the counts, and checksums of logs."""
    facts = ({} if plan is None else {READING: to_builtins(plan)}) | {"counts": dict(counts)}
    return facts | ({LOGS: list(logs)} if logs else {})


def read_plan(run: RunFolder) -> ReadingPlan | None:
    """Return how the data of a run were read; None for a run of an earlier version."""
    identity = run.read_json(DATA)
    with run.guard(DATA):
        return convert(identity[READING], ReadingPlan) if READING in identity else None


def read_logs(run: RunFolder) -> tuple[str, ...]:
    """Return checksums of the logs in a run; () for a run of an earlier version."""
    identity = run.read_json(DATA)
    with run.guard(DATA):
        return tuple(convert(identity.get(LOGS, []), list[str]))


def begin_run(
    run: RunFolder, settings: Section, fingerprint: str, features: str = "", *, facts: dict[str, Any], resume: bool
) -> None:
    """Write settings and data of a new run, or check that the run to resume is of the same data.

    Args:
        run: the folder; this process is its only writer.
        settings: of the run.
        fingerprint: checksum of the data and the split.
        features: checksum of the n-grams and the encoder of texts. "": no texts.
        facts: of the data, from `data_facts`.
        resume: whether to resume the run in the folder.

    Raises:
        RunError: the run to resume has other data or features; the folder cannot be written.
    """
    identity = _identity(settings, fingerprint, features)
    if not resume:
        new = partial(write_identity, settings=settings, fingerprint=fingerprint, features=features, facts=facts)
        run.replace_by(lambda fresh: new(RunFolder(fresh)), or_in_place=True)
    elif {key: value for key, value in run.read_json(DATA).items() if key not in facts} != identity:
        raise RunError(
            f"run {run.path}: was trained on other data, with another split, other n-grams or another encoder, "
            "or by an earlier version. Give the same files to resume, or start again with `overwrite=True`"
        )
    else:
        unfinish(run)


def write_identity(
    run: RunFolder, settings: Section, fingerprint: str, features: str = "", *, facts: dict[str, Any]
) -> None:
    """Write the file of the data and the settings to an empty folder, which makes it a run; as in `begin_run`."""
    run.write_json(DATA, _identity(settings, fingerprint, features) | facts)
    run.write_text(CONFIG, to_toml(settings))


def _identity(settings: Section, fingerprint: str, features: str) -> dict[str, str]:
    identity = {"job": NAMES[type(settings).__name__], "fingerprint": fingerprint}
    return identity | ({"features": features} if features else {})


def origin_of(run: RunFolder | None) -> Origin | None:
    """Return which run is in a folder now, for `write_run`; None without a folder."""
    return None if run is None else (run.place, run.state())


def write_run(
    path: str | Path, write: Callable[[RunFolder], None], *, overwrite: bool, origin: Origin | None = None
) -> Origin | None:
    """Write a whole run to a folder, and return its origin; a run that is there is replaced in one step at the end.

    Args:
        path: of the folder.
        write: writes the run to an empty folder.
        overwrite: whether a run may be replaced.
        origin: the run that the new one was made from. It must be unchanged to be replaced, or another writer's work
            would be lost.

    Raises:
        RunError: the folder holds another run, cannot be written, or another process writes to it; the run that the new
            one was made from was replaced meanwhile.
    """
    run = RunFolder(path)
    run.refuse_taken(overwrite=overwrite)
    with run.writing():
        run.refuse_taken(overwrite=overwrite)  # another process may have been faster
        if origin is not None and run.has(CONFIG) and origin[0] == run.place and origin[1] != run.state():
            raise RunError(
                f"run {run.path}: another run has been written there since this one was loaded. Load it again, or "
                "save to another folder"
            )
        run.replace_by(lambda fresh: write(RunFolder(fresh)), or_in_place=True)
        return origin_of(run)


def train_job(job: Job, run: RunFolder | None, *, resume: bool, watch: Watch) -> list[dict[str, float]]:
    """Train a job's model, with checkpoints in the run; return one row per epoch.

    Args:
        job: what to train; its seed draws the dropout too.
        run: gets the checkpoints. None: none are written; of several processes only the first has a run.
        resume: whether to continue from the newest undamaged checkpoint, if there is one.
        watch: its `stepped` is called.

    Raises:
        RunError: every checkpoint is damaged, or is of another model.
        TrainingError: as in `Trainer.run`.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """

    def save(checkpoint: Checkpoint) -> None:
        if run is not None:
            run.write_checkpoint(checkpoint.tensors, checkpoint.state)

    trainer = Trainer(job, save=save, watch=watch.stepped)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        seed_process(job.seed + 1)
        if resume:
            _restore(trainer, run)
        if not trainer.run():
            raise KeyboardInterrupt
    job.model.eval()
    return trainer.progress.history


def _restore(trainer: Trainer, run: RunFolder | None) -> None:
    """Restore a trainer from the newest undamaged checkpoint, if there is one; the first process reads it."""
    checkpoint = on_first(lambda: None if run is None else run.read_checkpoint())
    if checkpoint is not None:
        with nullcontext() if run is None else run.guard(CHECKPOINT):
            trainer.restore(Checkpoint(*checkpoint))
