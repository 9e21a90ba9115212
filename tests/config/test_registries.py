"""Every word that a setting allows has an implementation, and every setting is read."""

import ast
import typing
from pathlib import Path

import msgspec
import pytest

import hyperfocal
from hyperfocal.classify import head
from hyperfocal.config.classify import ClassifySettings, TextLossSettings, TextTrainSettings
from hyperfocal.config.recipes import flat_settings
from hyperfocal.config.recommend import CAUSAL, COUNTING, LossSettings, RankingTrainSettings, RecommendSettings
from hyperfocal.metrics.ranking import METRICS
from hyperfocal.models.baselines import KINDS
from hyperfocal.models.sequence_networks import ENCODERS
from hyperfocal.recommend import network

SOURCE = Path(hyperfocal.__file__).parent


def allowed(kind: type, key: str) -> set[str]:
    """Return the words of a setting."""
    (field,) = (field for field in msgspec.structs.fields(kind) if field.name == key)
    return set(typing.get_args(field.type))


def test_every_loss_is_made():
    assert allowed(LossSettings, "name") == set(network.LOSSES)
    assert allowed(TextLossSettings, "name") == set(head.LOSSES)


def test_every_model_is_made():
    assert set(CAUSAL) == set(ENCODERS)
    assert set(COUNTING) == set(KINDS)


def test_every_validation_metric_is_computed():
    assert allowed(TextTrainSettings, "metric") == set(head.VALIDATION)
    for name in METRICS:
        assert msgspec.convert({"metric": f"{name}@3"}, RankingTrainSettings).metric == f"{name}@3"


@pytest.mark.parametrize("kind", [RecommendSettings, ClassifySettings])
def test_every_setting_is_read(kind):
    trees = [ast.parse(path.read_text("utf-8")) for path in SOURCE.rglob("*.py") if path.parent.name != "config"]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {key.rpartition(".")[2] for key in flat_settings(kind())} - read == set()
