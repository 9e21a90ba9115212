"""Write a fit into its run folder, and read it."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import polars as pl
import torch
from torch import Tensor

from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.field_columns import FieldColumn
from hyperfocal.data.files import File
from hyperfocal.data.item_table import KEY, ItemTable
from hyperfocal.data.readers import read_frame
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.models.baselines import KINDS, Baseline
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.models.sequence_networks import Network
from hyperfocal.recommend.blend import Blend
from hyperfocal.recommend.network import make_network
from hyperfocal.recommend.ranker import Fit, Ranker
from hyperfocal.report.run import EVIDENCE
from hyperfocal.sequences import Sequences
from hyperfocal.storage.manifest import write_manifest
from hyperfocal.storage.run_folder import DATA, MODEL, RunFolder, describe_environment
from hyperfocal.storage.whole import whole_file
from hyperfocal.training.run import read_logs, read_plan, read_settings
from hyperfocal.training.weights import read_weights, write_weights

BASELINES = "baselines.safetensors"
EVENTS = "events.safetensors"  # of the training users in users.json; `update` adds to them
TABLE = "item_table.parquet"  # the columns of the item table, by item
ITEMS = "items.safetensors"  # features of the training items; items.json has the columns they come from


def write_fit(run: RunFolder, fit: Fit) -> None:
    """Write everything that `read_fit` reads, the weights last; raise RunError if the folder cannot be written."""
    ranker = fit.ranker
    tensors = {
        f"{name}.{key}": tensor
        for name, baseline in ranker.baselines.items()
        for key, tensor in baseline.tensors().items()
    }
    run.write_tensors(BASELINES, tensors)
    run.write_text("vocabulary.json", ranker.vocabulary.to_json())
    run.write_tensors(EVENTS, {"items": fit.events.items, "offsets": fit.events.offsets})
    run.write_json("users.json", fit.users.to_list())
    if ranker.features is not None:
        run.write_json("items.json", msgspec.to_builtins(ranker.columns))
        features = ranker.features._asdict()
        size = {"num_values": features.pop("num_values")}
        run.write_tensors(ITEMS, features, state=size)
    if ranker.table is not None:
        with whole_file(run.path / TABLE) as aside:
            ranker.table.frame.with_columns(ranker.table.ids.alias(KEY)).write_parquet(aside)
    run.write_text("history.jsonl", "".join(json.dumps(row) + "\n" for row in fit.history))
    run.write_json("environment.json", describe_environment())
    run.write_json("metrics.json", fit.metrics)
    if fit.evidence is not None:
        run.write_json(EVIDENCE, fit.evidence)
    model = ranker.model
    write_weights(run, model.tensors() if isinstance(model, Baseline) else model.state_dict())
    write_manifest(run)


def read_fit(run: RunFolder) -> Fit:
    """Return the fit of a run folder, without the evidence, which only the report reads.

    Raises:
        RunError: the run is of the other job or unfinished, or a file is missing or damaged.
    """
    settings = read_settings(RecommendSettings, run)
    tensors = read_weights(run)
    metrics = run.read_json("metrics.json")
    with run.guard("metrics.json"):
        blend_weight = float(metrics.get("blend", {}).get("weight", 0))
        weights = msgspec.convert(metrics.get("blend", {}).get("weights"), dict[str, float] | None)
        streamed = bool(metrics.get("data", {}).get("streamed"))
    with run.guard("vocabulary.json"):
        vocabulary = Vocabulary.from_json(run.read_text("vocabulary.json"))
    fingerprint = str(run.read_json(DATA)["fingerprint"])
    with run.guard("history.jsonl"):
        history = [json.loads(row) for row in run.read_text("history.jsonl").splitlines()]
    with run.guard(BASELINES):
        baselines = _baselines(run.read_tensors(BASELINES)[0], len(vocabulary))
    users, events = _read_events(run, len(vocabulary))
    columns, features = _read_features(run)
    with run.guard(MODEL):
        model = _model(tensors, settings, len(vocabulary), features)
    plan = read_plan(run)
    ranker = Ranker(
        settings,
        vocabulary,
        model,
        baselines,
        features,
        columns,
        blend_weight,
        streamed=streamed,
        plan=plan,
        table=_read_table(run),
        blend=None if weights is None else Blend(weights),
        best=str(metrics["model"]) if settings.model.blend == "auto" else "",
    )
    with run.guard("metrics.json"):
        _check_blend(ranker)
    return Fit(ranker, users, events, fingerprint, metrics, history, logs=read_logs(run))


def _check_blend(ranker: Ranker) -> None:
    """Raise ValueError unless the blend is of scorers that the run has, with finite weights above 0."""
    weights = {} if ranker.blend is None else ranker.blend.weights
    if ranker.blend is not None and not (weights and weights.keys() <= ranker.blend_parts().keys()):
        raise ValueError("its blend has no scorers, or scorers that the run has not")
    if not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError("a weight of its blend is not above 0")
    if ranker.name not in ranker.scorers():
        raise ValueError(f"the run has no {ranker.name} to rank by")


def _model(
    tensors: dict[str, Tensor], settings: RecommendSettings, num_items: int, features: ItemFeatures | None
) -> Network | Baseline:
    if settings.model.name in KINDS:
        return Baseline.from_tensors(settings.model.name, tensors)
    if settings.model.name in ("transformer", "gru") and settings.model.layers > len(tensors):
        raise ValueError(f"it has fewer than the {settings.model.layers:,} layers of config.toml")
    with torch.device("meta"):  # damaged settings may ask for more memory than there is
        network = make_network(settings, num_items, features)
    copies: dict[str, Any] = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}  # unmap
    network.load_state_dict(copies, assign=True)
    return network.eval()


def _read_events(run: RunFolder, num_items: int) -> tuple[pl.Series, Sequences]:
    """Return training users and events; a run of an earlier version has none, and cannot be updated."""
    if not run.has(EVENTS):
        return pl.Series("user", [], dtype=pl.String), Sequences.empty(num_items)
    with run.guard(EVENTS):
        tensors = run.read_tensors(EVENTS)[0]
        items, offsets = tensors["items"].long(), tensors["offsets"].long()
        falls = bool((offsets.diff() < 0).any()) or (int(offsets[0]), int(offsets[-1])) != (0, len(items))
        if falls or bool(((items < 0) | (items >= num_items)).any()):
            raise ValueError("its events do not fit the users and items")
        events = Sequences(items, offsets, num_items)
    with run.guard("users.json"):
        users = pl.Series("user", run.read_json("users.json"), dtype=pl.String)
        if len(users) != len(events) or users.n_unique() != len(users):
            raise ValueError("its users do not fit the events, or one is there twice")
    return users, events


def _read_features(run: RunFolder) -> tuple[list[FieldColumn], ItemFeatures | None]:
    if not run.has(ITEMS):
        return [], None
    with run.guard("items.json"):
        columns = msgspec.convert(run.read_json("items.json"), list[FieldColumn])
    with run.guard(ITEMS):
        tensors, size = run.read_tensors(ITEMS)
        return columns, ItemFeatures(**tensors, num_values=size["num_values"])


def _read_table(run: RunFolder) -> ItemTable | None:
    """Return the item table; None: the run was fitted without one, or is of an earlier version."""
    if not run.has(TABLE):
        return None
    with run.guard(TABLE):
        frame = read_frame(File(run.path / TABLE), row="item")  # which says that a file is damaged; polars may panic
        ids = frame[KEY] if KEY in frame.columns else pl.Series([0])
        if ids.dtype != pl.String or ids.null_count() or ids.n_unique() != len(ids):
            raise ValueError("its items are no distinct texts")
        return ItemTable(ids.alias("item"), frame.drop(KEY), 0, TABLE)


def _baselines(tensors: dict[str, Tensor], num_items: int) -> dict[str, Baseline]:
    """Return the baselines of a file; an old run may have fewer than KINDS."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, array = key.partition(".")
        by_name.setdefault(name, {})[array] = tensor
    order = list(KINDS).index
    baselines = {name: Baseline.from_tensors(name, by_name[name]) for name in sorted(by_name, key=order)}
    if "popularity" not in baselines:
        raise ValueError("it has no popularity")
    if any(len(baseline.counts) != num_items for baseline in baselines.values()):
        raise ValueError(f"it is not over the {num_items:,} items of vocabulary.json")
    return baselines
