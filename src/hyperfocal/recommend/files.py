"""A recommender in its run folder: written, and read again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import polars as pl
import torch
from torch import Tensor

from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.item_table import ItemColumn
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.models.baselines import KINDS, Baseline
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.recommend.network import make_network
from hyperfocal.report.run import EVIDENCE
from hyperfocal.sequences import Sequences
from hyperfocal.storage.run_folder import DATA, MODEL, RunFolder, describe_environment
from hyperfocal.training.run import read_settings

if TYPE_CHECKING:
    from hyperfocal.recommend.recommender import Recommender


BASELINES = "baselines.safetensors"
EVENTS = "events.safetensors"  # of training, with users.json: what `update` adds to
ITEMS = "items.safetensors"  # features of the training items, with items.json: their columns


def keep_recommender(run: RunFolder, recommender: Recommender) -> None:
    """Write everything that `restore_recommender` reads, the weights last.

    Raises:
        RunError: it cannot be written.
    """
    tensors = {
        f"{name}.{part}": tensor
        for name, baseline in recommender.baselines_.items()
        for part, tensor in baseline.tensors().items()
    }
    run.write_tensors(BASELINES, tensors)
    run.write_text("vocabulary.json", recommender.vocabulary_.to_json())
    run.write_tensors(EVENTS, {"items": recommender.events_.items, "offsets": recommender.events_.offsets})
    run.write_json("users.json", recommender.users_.to_list())
    if recommender.features_ is not None:
        run.write_json("items.json", msgspec.to_builtins(recommender.columns_))
        size = {"num_values": recommender.features_.num_values}
        parts = {name: part for name, part in recommender.features_._asdict().items() if isinstance(part, Tensor)}
        run.write_tensors(ITEMS, parts, state=size)
    run.write_text("history.jsonl", "".join(json.dumps(row) + "\n" for row in recommender.history_))
    run.write_json("environment.json", describe_environment())
    run.write_json("metrics.json", recommender.metrics_)
    if recommender.evidence_ is not None:
        run.write_json(EVIDENCE, recommender.evidence_)
    model = recommender.model_
    run.write_tensors(MODEL, model.tensors() if isinstance(model, Baseline) else model.state_dict())
    run.write_manifest()


def restore_recommender(run: RunFolder, recommender: Recommender) -> None:
    """Give an unfitted recommender all that the run has kept.

    Raises:
        RunError: a run of the other job, an unfinished one, or a file that is missing or damaged.
    """
    recommender.settings_ = settings = read_settings(RecommendSettings, run)
    tensors, _ = run.read_tensors(MODEL)
    recommender.metrics_ = run.read_json("metrics.json")
    with run.guard("metrics.json"):
        recommender.blend_weight_ = float(recommender.metrics_.get("blend", {}).get("weight", 0))
        recommender.streamed_ = bool(recommender.metrics_.get("data", {}).get("streamed"))
    with run.guard("vocabulary.json"):
        recommender.vocabulary_ = Vocabulary.from_json(run.read_text("vocabulary.json"))
    num_items, name = len(recommender.vocabulary_), settings.model.name
    recommender.fingerprint_ = str(run.read_json(DATA)["fingerprint"])
    with run.guard("history.jsonl"):
        recommender.history_ = [json.loads(row) for row in run.read_text("history.jsonl").splitlines()]
    with run.guard(BASELINES):
        recommender.baselines_ = _baselines(run.read_tensors(BASELINES)[0], num_items)
    _restore_events(run, recommender, num_items)
    recommender.columns_, recommender.features_ = _features(run)
    with run.guard(MODEL):
        if name in KINDS:
            recommender.model_ = Baseline.from_tensors(name, tensors)
        else:
            if name in ("transformer", "gru") and settings.model.layers > len(tensors):
                raise ValueError(f"it has not the {settings.model.layers:,} layers of config.toml")
            with torch.device("meta"):  # the settings may be damaged, and ask for more memory than there is
                recommender.model_ = make_network(settings, num_items, recommender.features_)
            copies = {key: tensor.to(torch.float32, copy=True) for key, tensor in tensors.items()}  # mapped from disk
            recommender.model_.load_state_dict(copies, assign=True)
            recommender.model_.eval()


def _restore_events(run: RunFolder, recommender: Recommender, num_items: int) -> None:
    """Restore training events; a run of an earlier version has none, and only `update` misses them."""
    recommender.users_, recommender.events_ = pl.Series("user", [], dtype=pl.String), Sequences.empty(num_items)
    if run.has(EVENTS):
        with run.guard(EVENTS):
            events = run.read_tensors(EVENTS)[0]
            items, offsets = events["items"].long(), events["offsets"].long()
            falls = bool((offsets.diff() < 0).any()) or (int(offsets[0]), int(offsets[-1])) != (0, len(items))
            if falls or bool(((items < 0) | (items >= num_items)).any()):
                raise ValueError("its events are not those of users and items")
            recommender.events_ = Sequences(items, offsets, num_items)
        with run.guard("users.json"):
            users = pl.Series("user", run.read_json("users.json"), dtype=pl.String)
            if len(users) != len(recommender.events_) or users.n_unique() != len(users):
                raise ValueError("its users are not those of the events, each once")
            recommender.users_ = users


def _features(run: RunFolder) -> tuple[list[ItemColumn], ItemFeatures | None]:
    if not run.has(ITEMS):
        return [], None
    with run.guard("items.json"):
        columns = msgspec.convert(run.read_json("items.json"), list[ItemColumn])
    with run.guard(ITEMS):
        parts, size = run.read_tensors(ITEMS)
        return columns, ItemFeatures(**parts, num_values=size["num_values"])


def _baselines(tensors: dict[str, Tensor], num_items: int) -> dict[str, Baseline]:
    """Return the baselines of a file; a run that was fitted before one of them existed lacks it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        parts.setdefault(name, {})[part] = tensor
    baselines = {name: Baseline.from_tensors(name, parts[name]) for name in sorted(parts, key=list(KINDS).index)}
    if "popularity" not in baselines:
        raise ValueError("it has no popularity")
    if any(len(baseline.counts) != num_items for baseline in baselines.values()):
        raise ValueError(f"it is not over the {num_items:,} items of vocabulary.json")
    return baselines
