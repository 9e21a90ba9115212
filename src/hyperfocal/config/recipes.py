"""Strict TOML recipes, and the typed settings of a job that they hold.

Two levels: a section and its keys. An unknown key, a wrong type and a value out of range are errors that name the key,
the value and what is allowed. `resolve` makes settings from a recipe file and overrides; `to_toml` writes them so that
`resolve` reads them back unchanged.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import tomli_w

from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError, did_you_mean
from hyperfocal.parts import special

Job = TypeVar("Job", bound=Section)
VALUE_LENGTH = 80  # of a value in a message
LARGEST_RECIPE = 2**22  # characters
STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # pipes that a shell opens: - and <(command)


def resolve(kind: type[Job], recipe: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Job:
    """Return the settings of a recipe file with overrides on top.

    Args:
        kind: the settings of a job: RecommendSettings or ClassifySettings.
        recipe: path of a TOML file; None starts from the defaults.
        overrides: dotted key -> value, for example {"train.epochs": 5, "seed": 1}. A value of None is ignored.

    Raises:
        ConfigError: the file is not readable, a key is unknown, a value has the wrong type or is out of range.

    >>> from hyperfocal.config.recommend import RecommendSettings
    >>> resolve(RecommendSettings, overrides={"loss.gamma": 3.0}).loss.gamma
    3.0
    """
    if not isinstance(recipe, str | os.PathLike | None):
        raise ConfigError(f"recipe = {recipe!r} is not a path. Give settings of your own with `settings=`")
    where = f"recipe {recipe}" if recipe is not None else "settings"
    values = read_toml(Path(recipe)) if recipe is not None else {}
    if "grid" in values:
        job = kind.__name__.removesuffix("Settings").lower()
        raise ConfigError(f"{where}: holds a grid. Give it to `{job} grid`, without options that make another grid")
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(values, dotted, _python(value))
    for dotted, value in kind.implied(values).items():
        if dotted not in flatten(values):
            _put(values, dotted, value)
    _refuse_unknown(values, kind, where, prefix="")
    try:
        return msgspec.convert(values, kind)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: {error.object!r} is not valid UTF-8. Write it in UTF-8") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), values, kind)}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """Return the dotted key and the value of `key=value`; a value that is not TOML is taken as text.

    >>> parse_override("train.epochs=5"), parse_override("model.name=markov")
    (('train.epochs', 5), ('model.name', 'markov'))
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {text!r}: expected SECTION.KEY=VALUE, for example train.epochs=5")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def to_toml(settings: Section) -> str:
    """Return the settings as a TOML recipe that `resolve` reads back unchanged."""
    return tomli_w.dumps(msgspec.to_builtins(settings))


def from_toml(kind: type[Job], text: str, where: str, *, whole: bool = False) -> Job:
    """Return the settings written by `to_toml`; errors begin with `where`.

    If the text is known to be `whole`, a missing setting gets its default, because the version that wrote the text did
    not have it.

    Raises:
        ConfigError: the text is not settings in TOML; or a key is missing and the text may be truncated.
    """
    try:
        values = tomllib.loads(text)
        _refuse_unknown(values, kind, where, prefix="")
        settings = msgspec.convert(values, kind)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}") from None
    missing = flat_settings(settings).keys() - flatten(values).keys()
    if missing and not whole:
        missing_keys = ", ".join(sorted(missing)[:3])
        raise ConfigError(f"{where}: {missing_keys} is missing. The file is cut off, or from another version")
    return settings


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of nested tables; an empty table stays a value.

    >>> flatten({"seed": 1, "loss": {"gamma": 2.0}})
    {'seed': 1, 'loss.gamma': 2.0}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def flat_settings(settings: Section) -> dict[str, Any]:
    """Return dotted key -> value of all settings, as plain values that TOML and JSON can hold."""
    return flatten(msgspec.to_builtins(settings))


def differences(old: Section, new: Section) -> list[str]:
    """Return a line for each setting that differs: "train.epochs: 5 -> 6"."""
    before, after = flat_settings(old), flat_settings(new)
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]


def read_toml(path: Path) -> dict[str, Any]:
    """Return the values of a recipe file.

    Raises:
        ConfigError: the file does not exist or is not TOML.
    """
    kind = special(path)
    if kind in ("a pipe", "a socket") and not str(path).startswith(STREAMS):
        raise ConfigError(f"recipe {path}: is {kind}, not a file. Give a TOML file")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST_RECIPE + 1)
        if len(text) > LARGEST_RECIPE:
            raise ConfigError(
                f"recipe {path}: has more than {LARGEST_RECIPE:,} characters. Give a TOML file of settings"
            )
        return tomllib.loads(text)
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"recipe {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:  # not TOML, a number of 5,000 digits, 100,000 brackets
        raise ConfigError(f"recipe {path}: not readable as TOML: {error}") from None


def _put(values: dict[str, Any], dotted: Any, value: Any) -> None:
    if not isinstance(dotted, str):
        raise ConfigError(f"settings: key {dotted!r} is not text. Write it like 'train.epochs'")
    if isinstance(value, set | frozenset):
        raise ConfigError(f"settings: {dotted} = {value!r} is a set, which has no order. Give a list")
    *sections, key = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"settings: '{dotted}': '{section}' is a value, not a section")
    values[key] = value


def _python(value: Any) -> Any:
    """Return scalars and arrays of numpy and pandas, and paths, as Python's plain values, also inside lists and tables.

    Searches over `np.linspace` hand such scalars to estimators.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _python(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_python(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _refuse_unknown(values: dict[str, Any], kind: type[Section], where: str, prefix: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            hint = did_you_mean(key, list(fields))
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'.{hint} Allowed: {', '.join(fields)}")
        inner = fields[key]
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Section):
            _refuse_unknown(value, inner, where, prefix=f"{key}.")


def _explain(message: str, values: dict[str, Any], job: type[Section]) -> str:
    """Turn msgspec's "Expected `int` >= 1 - at `$.train.epochs`" into key, value and expectation."""
    expected, _, place = message.partition(" - at `$.")
    key = place.rstrip("`")
    if not key:
        return message
    setting = key.split("[")[0]
    value: Any = values
    for name in setting.split("."):
        value = value.get(name) if isinstance(value, dict) else value
    choices = _choices(setting, job)
    allowed = f"Expected {choices}" if choices else expected.replace("`", "").replace("array", "list")
    return f"{key} = {_short(value)} is not allowed. {allowed}"


def _short(value: Any) -> str:
    """Return a value for a message, at most VALUE_LENGTH characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "an integer of thousands of digits"
    return text if len(text) <= VALUE_LENGTH else f"{text[:VALUE_LENGTH]}... ({len(text):,} characters)"


def _choices(key: str, job: type[Section]) -> str:
    """Return the words that a setting allows: "one of sgd, adam", "a number from 0 to 1, or none", or ""."""
    kind: Any = job
    for name in key.split("."):
        kind = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    words = [word for option in get_args(kind) if get_origin(option) is Literal for word in get_args(option)]
    return f"{', '.join([_number_from(get_args(kind)[0]), *words[:-1]])}, or {words[-1]}" if words else ""


def _number_from(kind: Any) -> str:
    """Return "a number from 0 to 1" for a type with both limits."""
    _, limits = get_args(kind)
    return f"a number from {limits.ge:,.12g} to {limits.le:,.12g}"
