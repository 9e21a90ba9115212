"""Typed settings of a job, and the strict TOML recipes that hold them.

Two levels: a section and its keys. An unknown key, a wrong type and a value out of range are errors
that name the key, the value and what is allowed. `resolve` is the one way from a recipe file and
overrides to settings; `to_toml` writes back exactly what `resolve` would read.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import tomli_w
from msgspec import Meta

from hyperfocal.errors import ConfigError, did_you_mean

MODEL_NAMES = ("concat_mlp", "popularity", "cooccurrence", "markov", "decayed_markov")

Fraction = Annotated[float, Meta(gt=0, lt=1)]
LARGEST = 2**31 - 1
AtLeastOne = Annotated[int, Meta(ge=1, le=LARGEST)]
AtLeastZero = Annotated[int, Meta(ge=0, le=LARGEST)]
NotNegative = Annotated[float, Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A group of settings."""


class DataSettings(Section, frozen=True, kw_only=True):
    """Where the columns are and how a history becomes an example."""

    user: str = ""  # column of the user id; "" finds it (`user`, or the first of three columns)
    item: str = ""  # column of the item id; "" likewise
    order: str = ""  # column of the position or time stamp; without one, the order of the file
    history: AtLeastOne = 10  # items that the network reads
    next: AtLeastOne = 3  # items that are the target, and that `predict` returns by default
    examples: Literal["last", "every"] = "every"  # cuts of a training user: one before the last `next` items, or all
    order_kind: Literal["auto", "position", "time"] = "auto"  # positions are unique; auto: integers below 10 million
    valid_fraction: Fraction = 0.1  # share of users held out where no validation file is given


class ModelSettings(Section, frozen=True, kw_only=True):
    """Which model, and its size."""

    name: Literal["concat_mlp", "popularity", "cooccurrence", "markov", "decayed_markov"] = "concat_mlp"
    embedding_width: AtLeastOne = 50
    hidden_widths: tuple[AtLeastOne, ...] = (100, 50)
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0


class LossSettings(Section, frozen=True, kw_only=True):
    """Which loss, and where the output bias starts."""

    name: Literal["focal", "bce"] = "focal"
    gamma: Annotated[float, Meta(ge=0, le=5)] = 2.0  # focal: 0 is binary cross-entropy
    alpha: Annotated[float, Meta(ge=0, le=1)] | Literal["none"] = 0.25  # weight of positives; 1 - alpha of negatives
    reduction: Literal["positives", "batch", "mean", "sum"] = "positives"  # what the sum is divided by
    prior: Fraction = 0.01  # pi: the output bias starts at -log((1 - pi) / pi)


class TrainSettings(Section, frozen=True, kw_only=True):
    """The optimizer, its schedule, and when to stop."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: Annotated[float, Meta(gt=0)] = 0.002
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9  # sgd only
    weight_decay: NotNegative = 0.0
    batch_size: AtLeastOne = 256  # examples a step
    epochs: AtLeastOne = 50  # at most
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: AtLeastZero = 0  # steps of linear warm-up, before either schedule
    clip_norm: NotNegative = 0.0  # largest gradient norm; 0 is off
    patience: AtLeastZero = 5  # epochs without a better validation metric before stopping; 0 is off
    metric: Annotated[str, Meta(pattern=r"^(map|recall|ndcg|hit|mrr)@[1-9]\d*$")] = "map@3"
    checkpoint_seconds: NotNegative = 30.0  # shortest time between two checkpoints
    threads: AtLeastZero = 0  # CPU threads; 0 is one a core, and never more than the cores


class RecommendSettings(Section, frozen=True, kw_only=True):
    """Everything that a `recommend` run depends on, beside the data."""

    seed: AtLeastZero = 0
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    train: TrainSettings = TrainSettings()


def resolve(recipe: str | Path | None = None, overrides: dict[str, Any] | None = None) -> RecommendSettings:
    """Return the settings of a recipe file with overrides on top.

    Args:
        recipe: path of a TOML file; None starts from the defaults.
        overrides: dotted key -> value, as {"train.epochs": 5, "seed": 1}. A None value is left out.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, value out of range.

    >>> resolve(overrides={"loss.gamma": 3.0}).loss.gamma
    3.0
    """
    where = f"recipe {recipe}" if recipe is not None else "settings"
    values = _read(Path(recipe)) if recipe is not None else {}
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(values, dotted, value)
    _refuse_unknown(values, RecommendSettings, where, prefix="")
    try:
        return msgspec.convert(values, RecommendSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), values)}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """Return the dotted key and the value of `key=value`; the value is read as TOML, else as text.

    >>> parse_override("train.epochs=5"), parse_override("model.name=markov")
    (('train.epochs', 5), ('model.name', 'markov'))
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {text!r}: expected SECTION.KEY=VALUE, for example train.epochs=5")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def to_toml(settings: RecommendSettings) -> str:
    """Return the settings as a TOML recipe that `resolve` reads back unchanged."""
    return tomli_w.dumps(msgspec.to_builtins(settings))


def from_toml(text: str, where: str) -> RecommendSettings:
    """Return the settings written by `to_toml`; `where` names the file in errors.

    Raises:
        ConfigError: not such a text; a key that is missing is an error too, for then the file was cut.
    """
    try:
        values = tomllib.loads(text)
        _refuse_unknown(values, RecommendSettings, where, prefix="")
        settings = msgspec.convert(values, RecommendSettings)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{where}: {error}") from None
    missing = _flat(msgspec.to_builtins(settings)).keys() - _flat(values).keys()
    if missing:
        raise ConfigError(f"{where}: {', '.join(sorted(missing)[:3])} is missing: cut off, or of another version")
    return settings


def differences(old: RecommendSettings, new: RecommendSettings) -> list[str]:
    """Return a line for each setting that differs: "train.epochs: 5 -> 6"."""
    before, after = _flat(msgspec.to_builtins(old)), _flat(msgspec.to_builtins(new))
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"recipe {path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"recipe {path}: not readable as TOML: {error}") from None


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"settings: '{dotted}': '{section}' is a value, not a section")
    values[key] = value


def _refuse_unknown(values: dict[str, Any], kind: type[Section], where: str, prefix: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            hint = did_you_mean(key, list(fields))
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'.{hint} Allowed: {', '.join(fields)}")
        inner = fields[key]
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Section):
            _refuse_unknown(value, inner, where, prefix=f"{key}.")


def _explain(message: str, values: dict[str, Any]) -> str:
    """Turn msgspec's "Expected `int` >= 1 - at `$.train.epochs`" into key, expectation and value."""
    expected, _, place = message.partition(" - at `$.")
    key = place.rstrip("`")
    if not key:
        return message
    found: Any = values
    for part in key.split("[")[0].split("."):
        found = found.get(part) if isinstance(found, dict) else found
    if expected.startswith("Invalid enum value"):
        expected = f"Expected {_choices(key)}"
    return f"{key} = {found!r} is not allowed. {expected.replace('`', '')}"


def _choices(key: str) -> str:
    """Return what a setting that takes words allows: "one of sgd, adam, adamw"."""
    kind: Any = RecommendSettings
    for part in key.split("."):
        kind = next(field.type for field in msgspec.structs.fields(kind) if field.name == part)
    words = get_args(kind)
    if all(isinstance(word, str) for word in words):
        return f"one of {', '.join(words)}"
    return f"a number, or {', '.join(get_args(words[-1]))}"
