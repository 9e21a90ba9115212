import inspect

import pytest
import torch
from torch import nn

from hyperfocal import MultiLabelClassifier, Recommender
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.config.sections import Section, TrainSettings
from hyperfocal.data.reading import ReadingPlan
from hyperfocal.errors import ConfigError
from hyperfocal.training.trainer import Job, Progress, Trainer
from hyperfocal.training.watch import Watch, watch_with

EVENTS = {
    "begun": (RecommendSettings(),),
    "planned": (ReadingPlan("long", 9, ()),),
    "stepped": (Progress(), 5),
    "encoded": (32, 64),
    "predicted": (1, 0.5),
    "points_skipped": (3,),
    "points_awaited": (2,),
    "point_started": ("gru softmax", 0),
    "point_finished": ("gru softmax", 0, RecommendSettings(), {"map@3": 0.1}, 2.5),
    "point_failed": ("gru softmax", 0, "RunError: no space"),
}


def test_every_hook_does_nothing():
    hooks = [name for name, _ in inspect.getmembers(Watch, inspect.isfunction)]
    assert sorted(hooks) == sorted(EVENTS)
    assert [getattr(Watch(), name)(*event) for name, event in EVENTS.items()] == [None] * len(EVENTS)


def test_a_training_calls_its_hook():
    class Record(Watch):
        def __init__(self) -> None:
            self.events: list[tuple[int, int, int]] = []

        def stepped(self, progress: Progress, steps: int) -> None:
            self.events.append((progress.epoch, progress.step, steps))

    model, record = nn.Linear(2, 1), Record()
    inputs = torch.ones(6, 2)
    job = Job(model, lambda index: model(inputs[index]).mean(), 6, None, TrainSettings(batch_size=2, epochs=2), seed=0)
    assert Trainer(job, watch=record.stepped).run()
    assert record.events == [(0, 3, 3), (1, 0, 3), (1, 3, 3), (2, 0, 3)]


@pytest.mark.parametrize(
    ("estimator", "data"),
    [
        (
            Recommender(model="markov", next_items=1),
            ({"user": [n // 4 for n in range(120)], "item": [n % 4 for n in range(120)]},),
        ),
        (MultiLabelClassifier(features="ngrams"), (["red apple", "green pear"] * 20, [["x"], ["y"]] * 20)),
    ],
)
def test_a_fit_announces_its_settings_once(estimator, data):
    class Record(Watch):
        def __init__(self) -> None:
            self.settings: list[Section] = []

        def begun(self, settings: Section) -> None:
            self.settings.append(settings)

    record = Record()
    fitted = estimator.fit(*data, watch=record)
    assert record.settings == [fitted.settings_]


def test_several_watches_get_every_event_in_their_order():
    events = []

    class Record(Watch):
        def __init__(self, name: str) -> None:
            self.name = name

        def encoded(self, done: int, total: int) -> None:
            events.append((self.name, done, total))

    both = watch_with(Record("a"), Watch(), Record("b"))
    assert [getattr(both, name)(*event) for name, event in EVENTS.items()] == [None] * len(EVENTS)
    assert events == [("a", 32, 64), ("b", 32, 64)]


@pytest.mark.parametrize(
    "fit",
    [
        lambda watch: Recommender(model="markov").fit([["a"]], watch=watch),
        lambda watch: MultiLabelClassifier().fit(["a"], [["b"]], watch=watch),
    ],
)
def test_a_function_is_not_a_watch(fit):
    with pytest.raises(ConfigError, match="function is not a Watch"):
        fit(lambda progress, steps: None)
