"""The store under any order of events, against a model of a few lines: each point ends once, nothing is lost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grid_cases import settings
from hyperfocal.grid import claims
from hyperfocal.grid import store as stores
from hyperfocal.grid.points import Point
from hyperfocal.grid.store import Store

POINTS, WORKERS = st.integers(0, 3), st.integers(0, 2)


class Machine(RuleBasedStateMachine):
    """Three workers on three machines share four points; clocks go on, workers fall silent and come back."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 1_000.0
        self.held: dict[int, tuple[int, float]] = {}  # point -> worker and its last beat
        self.ended: dict[int, str] = {}
        self.owner = stores.own_claim
        self.store = Store.open(self.folder / "grid.sqlite", fingerprint="f", settings=settings())

    def teardown(self):
        stores.own_claim = self.owner
        shutil.rmtree(self.folder)

    def point(self, number: int) -> Point:
        return Point(f"p{number}", number, settings())

    def as_worker(self, worker: int) -> None:
        """Let the next call come from a machine of that worker, at the present time."""
        stores.own_claim = lambda _: (f"machine{worker}", 7, "birth", self.now)
        clock = self.now

        class Clock(stores.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls.fromtimestamp(clock, tz)

        self.clock = Clock

    def call(self, worker: int, function, *arguments, **options):
        self.as_worker(worker)
        before, stores.datetime = stores.datetime, self.clock
        try:
            return function(*arguments, **options)
        finally:
            stores.datetime = before

    def is_held(self, number: int) -> bool:
        return number in self.held and self.now - self.held[number][1] < claims.SILENT_SECONDS

    @rule(worker=WORKERS, number=POINTS, retry=st.booleans())
    def claim(self, worker, number, retry):
        may = not self.is_held(number) and (number not in self.ended or (retry and self.ended[number] == "failed"))
        assert self.call(worker, self.store.claim, self.point(number), retry=retry) is may
        if may:
            self.held[number] = (worker, self.now)
            self.ended.pop(number, None)  # a failed one is tried again

    @rule(worker=WORKERS, number=POINTS)
    def beat(self, worker, number):
        self.call(worker, self.store.beat, self.point(number))
        if number in self.held and self.held[number][0] == worker:
            self.held[number] = (worker, self.now)

    @rule(seconds=st.sampled_from([1.0, 100.0, claims.SILENT_SECONDS + 1]))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.held)
    @rule(data=st.data(), well=st.booleans())
    def end(self, data, well):
        """A worker ends its point, even one that was taken for dead: what is done first stays."""
        number = data.draw(st.sampled_from(sorted(self.held)))
        worker = self.held.pop(number)[0]
        if well:
            values = {"value": float(len(self.ended))}
            self.call(worker, self.store.put, self.point(number), values, {"r": torch.ones(2)}, seconds=1.0)
        else:
            self.call(worker, self.store.fail, self.point(number), "broke")
        if self.ended.get(number) != "done":
            self.ended[number] = "done" if well else "failed"

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data):
        number = data.draw(st.sampled_from(sorted(self.held)))
        self.call(self.held.pop(number)[0], self.store.release, self.point(number))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), worker=WORKERS)
    def give_back_what_is_not_ones_own(self, data, worker):
        number = data.draw(st.sampled_from(sorted(self.held)))
        self.call(worker, self.store.release, self.point(number))
        if self.held[number][0] == worker:
            del self.held[number]

    @invariant()
    def the_store_says_what_the_model_says(self):
        keys = {self.point(number).key("f"): number for number in range(4)}
        assert {keys[key] for key in self.store.done()} == {n for n, how in self.ended.items() if how == "done"}
        assert {keys[key] for key in self.store.failed()} == {n for n, how in self.ended.items() if how == "failed"}
        assert {keys[key] for key in self.call(0, self.store.held)} == {n for n in self.held if self.is_held(n)}
        assert len(self.store.results()) == len(self.ended)


TestStore = Machine.TestCase
TestStore.settings = examples(
    max_examples=6, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
