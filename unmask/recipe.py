"""From a recipe's name and dotted overrides to a validated config, and back to text."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from unmask.config import COMMANDS, Section, describe, field_names
from unmask.objectives import OBJECTIVES, Objective

PACKAGE = Path(__file__).parent
DEFAULT_RECIPE = "sudoku-tiny"


class ConfigError(ValueError):
    """A recipe or an override that the schema refuses."""


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of a shipped recipe.

    Raises:
        ConfigError: if there is none; lists the shipped ones.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = {file.stem: file for file in _recipes_folder().glob("*.yaml")}
    if path.stem in shipped and path.parent.name in ("", "recipes"):
        return shipped[path.stem]
    raise ConfigError(
        f"recipe {name!r} is neither a file nor a shipped recipe: choose "
        f"{', '.join(sorted(shipped))}, or give the path of a YAML file"
    )


def load_config(arguments: Sequence[str], command: str | None = None) -> Section:
    """Validate `[RECIPE] [key=value …]` into one config.

    Args:
        arguments: an optional recipe, then dotted overrides.
        command: the schema to use, "train" or "sft"; None takes the recipe's own.

    Raises:
        ConfigError: one line that names the value, the rule and the remedy.
    """
    recipe, overrides = split_arguments(arguments)
    overrides = [re.sub(r"^resume=", "checkpoint.resume=", item) for item in overrides]
    path = find_recipe(recipe or (DEFAULT_RECIPE if command != "sft" else "sudoku-tiny-base"))
    raw = _merge(_load(path), overrides, path.name)
    kind = raw.get("command", "train")
    if command is not None and kind != command:
        raise ConfigError(
            f"{path.name} is a recipe for `unmask {kind}`: choose one for `unmask {command}`"
        )
    if kind not in COMMANDS:
        raise ConfigError(f"command={kind!r} in {path.name} is unknown: {', '.join(COMMANDS)}")
    if isinstance(raw.get("output_dir"), str):
        raw["output_dir"] = raw["output_dir"].replace("{recipe}", path.stem)
    config = validate(COMMANDS[kind], raw)
    config.output_dir = config.output_dir.replace("{recipe}", path.stem)
    return config


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """A recipe, if the first argument holds no "=", and the overrides."""
    rest = list(arguments)
    recipe = rest.pop(0) if rest and "=" not in rest[0] else None
    for item in rest:
        if not re.match(r"[A-Za-z_][\w.]*=", item):
            raise ConfigError(f"{item!r} is no override: write key=value, such as seed=7")
    return recipe, rest


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """A nested mapping of dotted `key=value` pairs; values are YAML."""
    recipe, rest = split_arguments(["-", *overrides])
    assert recipe == "-"
    return _merge(OmegaConf.create(), rest, "overrides")


def validate(schema: type[Section], raw: Mapping[str, Any]) -> Section:
    """A config from a nested mapping; an objective brings its paper's settings along.

    Raises:
        ConfigError: one line.
    """
    try:
        return schema.model_validate(_with_paper(dict(raw)))
    except ValidationError as error:
        raise ConfigError(describe(error, schema)) from None


def to_yaml(config: Section) -> str:
    """The fully resolved config as a recipe that gives the same config."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )


def config_hash(config: Section) -> str:
    """Hash of what decides a run's results: everything but where it writes and how it resumes."""
    content = config.model_dump(mode="json", exclude={"output_dir", "logging"})
    content.get("checkpoint", {}).pop("resume", None)
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def schema_rows(schema: type) -> Iterator[tuple[str, str, str, str]]:
    """(dotted key, type, default, doc) of every field of a schema."""
    yield from _rows(schema, "")


def _with_paper(raw: dict[str, Any]) -> dict[str, Any]:
    objective = raw.get("objective")
    if isinstance(objective, Mapping):
        cls = OBJECTIVES.get(objective.get("name", ""))
    else:
        cls = type(objective) if isinstance(objective, Objective) else None
    for section, settings in (cls.paper if cls else {}).items():
        given = raw.get(section) or {}
        if isinstance(given, Mapping) and given.get("name", settings["name"]) == settings["name"]:
            raw[section] = {**settings, **given}
    return raw


def _merge(base: Any, overrides: Sequence[str], source: str) -> dict[str, Any]:
    try:
        merged = OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides)))
        raw = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise _unreadable(source, error) from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} holds no mapping: a recipe is a YAML mapping of sections")
    return {str(key): value for key, value in raw.items()}


def _load(path: Path) -> Any:
    try:
        return OmegaConf.load(path)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise _unreadable(str(path), error) from None


def _unreadable(source: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())
    return ConfigError(f"{source}: {reason}; give valid YAML and key=value overrides")


def _recipes_folder() -> Path:
    shipped = PACKAGE / "recipes"
    return shipped if shipped.is_dir() else PACKAGE.parent / "recipes"


def _rows(schema: type, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    docs = argument_docs(schema)
    hints = get_type_hints(schema)
    for name in field_names(schema):
        default = _default(schema, name)
        nested = next(
            (c for c in (hints[name], *get_args(hints[name]))
             if isinstance(c, type) and field_names(c)),
            None,
        )
        shown = "" if nested else json.dumps(default, default=str)
        if name in ("objective", "estimator"):
            yield f"{prefix}{name}", "by name", json.dumps(_names(name)), docs.get(name, "")
            continue
        yield f"{prefix}{name}", _type_name(hints[name]), shown, docs.get(name, "")
        if nested:
            yield from _rows(nested, f"{prefix}{name}.")


def _names(section: str) -> list[str]:
    from unmask.estimators import ESTIMATORS

    return list(OBJECTIVES if section == "objective" else ESTIMATORS)


def argument_docs(cls: type) -> dict[str, str]:
    """Docs of a class's fields, from the Args part of its docstring."""
    text = inspect.getdoc(cls) or ""
    if "Args:" not in text:
        return {}
    body = text.split("Args:", 1)[1].split("\n\n", 1)[0]
    found = re.findall(r"^    (\w+): ((?:.|\n(?!    \w+: ))*)", body, flags=re.MULTILINE)
    return {name: " ".join(doc.split()) for name, doc in found}


def _default(schema: type, name: str) -> Any:
    if is_dataclass(schema):
        return next(f.default for f in schema.__dataclass_fields__.values() if f.name == name)
    assert issubclass(schema, BaseModel)
    return schema.model_fields[name].default


def _type_name(hint: Any) -> str:
    text = getattr(hint, "__name__", None) if isinstance(hint, type) and not get_args(hint) else None
    return text or str(hint).replace("typing.", "").replace("unmask.models.settings.", "")
