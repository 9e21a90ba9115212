"""Strict TOML recipes, and the typed settings of a job that they hold.

Two levels: a section and its keys. An unknown key, a wrong type and a value out of range are errors
that name the key, the value and what is allowed. `resolve` is the one way from a recipe file and
overrides to settings; `to_toml` writes back exactly what `resolve` would read.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import tomli_w

from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError, did_you_mean

Job = TypeVar("Job", bound=Section)


def resolve(kind: type[Job], recipe: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Job:
    """Return the settings of a recipe file with overrides on top.

    Args:
        kind: the settings of a job: RecommendSettings or ClassifySettings.
        recipe: path of a TOML file; None starts from the defaults.
        overrides: dotted key -> value, as {"train.epochs": 5, "seed": 1}. A None value is left out.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, value out of range.

    >>> from hyperfocal.config.recommend import RecommendSettings
    >>> resolve(RecommendSettings, overrides={"loss.gamma": 3.0}).loss.gamma
    3.0
    """
    where = f"recipe {recipe}" if recipe is not None else "settings"
    values = read_toml(Path(recipe)) if recipe is not None else {}
    if "grid" in values:
        job = kind.__name__.removesuffix("Settings").lower()
        raise ConfigError(f"{where}: holds a grid. Give it to `{job} grid`, without options that make another grid")
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(values, dotted, value)
    _refuse_unknown(values, kind, where, prefix="")
    try:
        return msgspec.convert(values, kind)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: {error.object!r} is not text in UTF-8. Write it so") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), values, kind)}") from None


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
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def to_toml(settings: Section) -> str:
    """Return the settings as a TOML recipe that `resolve` reads back unchanged."""
    return tomli_w.dumps(msgspec.to_builtins(settings))


def from_toml(kind: type[Job], text: str, where: str, *, whole: bool = False) -> Job:
    """Return the settings written by `to_toml`.

    Args:
        kind: the settings of the job.
        text: to read.
        where: names the file in errors.
        whole: whether the text is known to be what was written: then a setting that is missing is one that the
            version which wrote it did not have, and gets its default.

    Raises:
        ConfigError: not such a text; a key is missing and the text not known to be whole, so it may be cut off.
    """
    try:
        values = tomllib.loads(text)
        _refuse_unknown(values, kind, where, prefix="")
        settings = msgspec.convert(values, kind)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}") from None
    missing = _flat(msgspec.to_builtins(settings)).keys() - _flat(values).keys()
    if missing and not whole:
        raise ConfigError(f"{where}: {', '.join(sorted(missing)[:3])} is missing: cut off, or of another version")
    return settings


def differences(old: Section, new: Section) -> list[str]:
    """Return a line for each setting that differs: "train.epochs: 5 -> 6"."""
    before, after = _flat(msgspec.to_builtins(old)), _flat(msgspec.to_builtins(new))
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def read_toml(path: Path) -> dict[str, Any]:
    """Return the values of a recipe file.

    Raises:
        ConfigError: it is not there, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"recipe {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:  # no TOML, a number of 5,000 digits, 100,000 brackets
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


def _explain(message: str, values: dict[str, Any], job: type[Section]) -> str:
    """Turn msgspec's "Expected `int` >= 1 - at `$.train.epochs`" into key, expectation and value."""
    expected, _, place = message.partition(" - at `$.")
    key = place.rstrip("`")
    if not key:
        return message
    found: Any = values
    for part in key.split("[")[0].split("."):
        found = found.get(part) if isinstance(found, dict) else found
    choices = _choices(key.split("[")[0], job)
    allowed = f"Expected {choices}" if choices else expected.replace("`", "")
    return f"{key} = {found!r} is not allowed. {allowed}"


def _choices(key: str, job: type[Section]) -> str:
    """Return all that a setting of words allows, "one of sgd, adam, adamw", or "a number from 0 to 1, or none"."""
    kind: Any = job
    for part in key.split("."):
        kind = next(field.type for field in msgspec.structs.fields(kind) if field.name == part)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    words = [word for part in get_args(kind) if get_origin(part) is Literal for word in get_args(part)]
    return f"{', '.join([_number_from(get_args(kind)[0]), *words[:-1]])}, or {words[-1]}" if words else ""


def _number_from(kind: Any) -> str:
    """Return "a number from 0 to 1" for a type with both ends."""
    _, ends = get_args(kind)
    return f"a number from {ends.ge:,.12g} to {ends.le:,.12g}"
