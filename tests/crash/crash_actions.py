"""Actions that are no command of the command line: each runs in a child of the fork server, and returns an exit code.

Errors end as on the command line: `error: ...` and exit code 2.
"""

import json
import sys
from functools import wraps
from pathlib import Path

from hyperfocal.errors import HyperfocalError


def as_command(action):
    """Return the action with errors as on the command line."""

    @wraps(action)
    def run(*words):
        try:
            return action(*words)
        except (HyperfocalError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return run


@as_command
def load(run):
    """Load a run in Python, and print what a prediction needs to be the same."""
    print(json.dumps(answers(run), sort_keys=True))


@as_command
def serve(run):
    """Load a run as the service does, and print its answer to a request."""
    from hyperfocal.classify.service import load_classify
    from hyperfocal.recommend.service import load_recommend
    from hyperfocal.serve.live import Engine, load_predictor

    predictor = load_predictor(Path(run), Engine("torch", {"recommend": load_recommend, "classify": load_classify}))
    print(predictor.version, predictor.answer([predictor.sample]))


@as_command
def save(source, target):
    """Load a run and save it over another one."""
    estimator(source).save(target, overwrite=True)


def estimator(run):
    """Return the estimator of a run of either job."""
    from hyperfocal.classify.classifier import MultiLabelClassifier
    from hyperfocal.recommend.recommender import Recommender
    from hyperfocal.serve.live import job_of
    from hyperfocal.storage.run_folder import RunFolder

    kind = {"classify": MultiLabelClassifier, "recommend": Recommender}[job_of(RunFolder.open(run))]
    return kind.load(run)


def answers(run):
    """Return the answers of a run to fixed requests, with scores to 6 digits."""
    loaded = estimator(run)
    if hasattr(loaded, "recommend"):
        return loaded.recommend([["i1", "i2"], ["i5"], []], k=3)
    texts = ["sport and sports", "music", ""]
    return [loaded.predict(texts), loaded.predict_proba(texts).round(6).tolist()]


def fail_at_step(number):
    """Raise MemoryError in the n-th step of the training of this process."""
    from hyperfocal.training import trainer

    real, calls = trainer.Trainer._step, [0]

    def step(self, *arguments, **options):
        calls[0] += 1
        if calls[0] == number:
            raise MemoryError
        return real(self, *arguments, **options)

    trainer.Trainer._step = step


def follow(run, stop):
    """Load a run again and again, as a service that reloads, until a file appears; print what is new."""
    seen = set()
    while not Path(stop).exists():
        try:
            line = json.dumps(answers(run), sort_keys=True)
        except HyperfocalError as error:
            line = f"error: {' '.join(str(error).split())}"
        if line not in seen:
            seen.add(line)
            print(line, flush=True)
