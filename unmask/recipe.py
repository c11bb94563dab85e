"""From a recipe's name and dotted overrides to a validated config, and back to text."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from unmask.config import COMMANDS, AnyConfig
from unmask.estimators import ESTIMATORS
from unmask.models.paths import is_local_model
from unmask.objectives import OBJECTIVES, Objective
from unmask.schema import Section, describe, field_names, section_type, takes_number

PACKAGE = Path(__file__).parent
DEFAULT_RECIPE = "sudoku-tiny"
DEFAULT_RECIPES = {"sft": "sudoku-tiny-expert", "compare": "study-sudoku"}
SHORT_KEYS = {
    r"^resume=": "checkpoint.resume=",
    r"^eval(?=[.=])": "evaluation",
    r"^model=(?=[^{])": "model.path=",
}
METHOD_SECTIONS = ("objective", "estimator", "advantage")
BY_NAME: dict[str, Mapping[str, type]] = {"objective": OBJECTIVES, "estimator": ESTIMATORS}

ConfigT = TypeVar("ConfigT", bound=Section)


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
    shipped = {file.stem: file for file in _recipes_folder().rglob("*.yaml")}
    if path.stem in shipped and path.parent.name in ("", "recipes", "papers"):
        return shipped[path.stem]
    if is_local_model(name):
        raise ConfigError(f"{name!r} is a folder or a model, not a recipe: give model={name}")
    raise ConfigError(
        f"recipe {name!r} is neither a file nor a shipped recipe: choose "
        f"{', '.join(sorted(shipped))}, or give the path of a YAML file"
    )


def load_config(arguments: Sequence[str], command: str | None = None) -> AnyConfig:
    """Validate `[RECIPE] [key=value …]` into one config.

    Args:
        arguments: an optional recipe, then dotted overrides.
        command: the schema to use, such as "train"; None takes the recipe's own.

    Raises:
        ConfigError: one line that names the value, the rule and the remedy.
    """
    path, content, overrides = read_layers(arguments, command)
    raw = _merge(content, overrides, path.name)
    kind = raw.get("command", "train")
    if command is not None and kind != command:
        raise ConfigError(
            f"{path.name} is a recipe for `unmask {kind}`: choose one for `unmask {command}`"
        )
    if not isinstance(kind, str) or kind not in COMMANDS:
        raise ConfigError(
            f"command={kind!r} in {path.name} is unknown: choose {', '.join(COMMANDS)}"
        )
    if isinstance(raw.get("output_dir"), str):
        raw["output_dir"] = raw["output_dir"].replace("{recipe}", path.stem)
    config = validate(COMMANDS[kind], raw)
    config.output_dir = config.output_dir.replace("{recipe}", path.stem)
    return config


def read_layers(
    arguments: Sequence[str], command: str | None = None
) -> tuple[Path, Any, list[str]]:
    """What a config is made of: the recipe's file, its content, and the overrides.

    The content leaves out what belongs to another method than the overrides name.
    """
    recipe, overrides = split_arguments(arguments)
    for short, key in SHORT_KEYS.items():
        overrides = [re.sub(short, key, item) for item in overrides]
    path = find_recipe(recipe or DEFAULT_RECIPES.get(command or "train", DEFAULT_RECIPE))
    content = _load(path)
    if OmegaConf.is_dict(content):
        for section in replaced_sections(content, parse_overrides(overrides)):
            content.pop(section, None)
    return path, content, overrides


def replaced_sections(base: Mapping[str, Any], over: Mapping[str, Any]) -> list[str]:
    """Sections of `base` that belong to another method than `over` names.

    Another objective brings its own estimator and advantage.
    """
    changed = {name for name in METHOD_SECTIONS if renamed(base.get(name), over.get(name))}
    return [name for name in METHOD_SECTIONS if "objective" in changed or name in changed]


def renamed(below: Any, above: Any) -> bool:
    """Whether a section laid over another gives it another `name`."""
    if not isinstance(below, Mapping | DictConfig) or not isinstance(above, Mapping):
        return False
    return above.get("name", below.get("name")) != below.get("name")


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


def validate(schema: type[ConfigT], raw: Mapping[str, Any]) -> ConfigT:
    """A config from a nested mapping; an objective brings its paper's settings along.

    Raises:
        ConfigError: one line.
    """
    completed = _completed(schema, raw)
    if switches := list(_switches(schema, completed)):
        raise ConfigError("; ".join(switches))
    try:
        return schema.model_validate(completed)
    except ValidationError as error:
        raise ConfigError(describe(error, schema)) from None


def to_yaml(config: Section) -> str:
    """The fully resolved config as a recipe that gives the same config."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )


def decisive_settings(config: Section) -> dict[str, Any]:
    """What decides a run's results: everything but where it writes and how it resumes."""
    content = config.model_dump(mode="json", exclude={"output_dir", "logging"})
    content.get("checkpoint", {}).pop("resume", None)
    return content


def config_hash(config: Section) -> str:
    """Hash of `decisive_settings`."""
    text = json.dumps(decisive_settings(config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Nested mappings as one, with joined keys."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{name}{separator}", separator)
        else:
            result[f"{prefix}{name}"] = value
    return result


def schema_rows(schema: type) -> Iterator[tuple[str, str, str, str]]:
    """(dotted key, type, default, doc) of every field of a schema.

    The settings of an objective or estimator begin their doc with its name.
    """
    yield from _rows(schema, "", None)


def _completed(schema: type[Section], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Sections filled up from the objective's paper, then from the schema's own defaults.

    Without this, one key of a section would put the others back to its class's defaults, which
    need not be the schema's.
    """
    completed, defaults = dict(raw), schema().model_dump()
    paper = {}
    if "objective" in defaults:
        paper = _paper(_filled(raw.get("objective", {}), defaults["objective"]))
    for section, settings in paper.items():
        completed[section] = _filled(completed.get(section) or {}, settings)
    for section, settings in defaults.items():
        if section in completed:
            completed[section] = _filled(completed[section], settings)
    return completed


def _switches(cls: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A message for each true or false that stands where a number should."""
    for key, value in values.items():
        if key not in field_names(cls):
            continue
        if isinstance(value, Mapping):
            named = BY_NAME.get(key, {}).get(str(value.get("name")))
            yield from _switches(named or section_type(cls, key), value, f"{prefix}{key}.")
            continue
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items) and takes_number(cls, key):
            yield f"{prefix}{key}={value}: give a number"


def _paper(objective: Any) -> dict[str, dict[str, Any]]:
    if isinstance(objective, Objective):
        return objective.paper
    name = objective.get("name") if isinstance(objective, Mapping) else None
    return OBJECTIVES[name].paper if isinstance(name, str) and name in OBJECTIVES else {}


def _filled(given: Any, settings: Any) -> Any:
    """Settings of a mapping that were not given, unless they belong to another name."""
    if not isinstance(given, Mapping) or not isinstance(settings, Mapping):
        return given
    same = given.get("name", settings.get("name")) == settings.get("name")
    return {**settings, **given} if same else given


def _merge(base: Any, overrides: Sequence[str], source: str) -> dict[str, Any]:
    if not OmegaConf.is_dict(base):
        raise ConfigError(f"{source} holds no mapping: a recipe is a YAML mapping of sections")
    try:
        merged = OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides)))
        raw = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise _unreadable(source, error) from None
    except TypeError:
        # OmegaConf's, where a list is laid over a mapping.
        raise ConfigError(
            f"{' '.join(overrides)}: a list stands where {source} has a section; give a mapping, "
            "or its keys as SECTION.KEY=VALUE"
        ) from None
    assert isinstance(raw, dict)
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


def _rows(schema: type, prefix: str, settings: Any) -> Iterator[tuple[str, str, str, str]]:
    """Rows of one section; `settings` is its default where the schema around it has one."""
    docs = argument_docs(schema)
    hints = get_type_hints(schema)
    for name in field_names(schema):
        default = _default(schema, name) if settings is None else getattr(settings, name)
        key, doc = f"{prefix}{name}", docs.get(name, "")
        if name in BY_NAME:
            yield from _rows_by_name(key, default, doc)
            continue
        nested = section_type(schema, name)
        section = default if isinstance(default, nested) and field_names(nested) else None
        shown = "" if default is ... or section else json.dumps(default, default=str)
        yield key, _type_name(hints[name]), shown, doc
        if field_names(nested):
            item = "[]" if "list[" in str(hints[name]) else ""
            yield from _rows(nested, f"{key}{item}.", section)


def _rows_by_name(key: str, default: Any, doc: str) -> Iterator[tuple[str, str, str, str]]:
    registry = BY_NAME[key]
    chosen = next(name for name, cls in registry.items() if cls is type(default))
    yield f"{key}.name", " | ".join(registry), json.dumps(chosen), doc
    for name, cls in registry.items():
        for row_key, kind, shown, about in _rows(
            cls, f"{key}.", default if name == chosen else None
        ):
            yield row_key, kind, shown, f"{name}: {about}"


def argument_docs(cls: type) -> dict[str, str]:
    """Docs of a class's fields, from the Args part of its docstring and of those it inherits."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, rest = text.partition("Args:")
        body, _, _ = rest.partition("\n\n")
        found = re.findall(r"^    (\w+): ((?:.|\n(?!    \w+: ))*)", body, flags=re.MULTILINE)
        docs |= {name: " ".join(doc.split()) for name, doc in found}
    return docs


def _default(schema: type, name: str) -> Any:
    """A field's default, `...` where it has none."""
    if is_dataclass(schema):
        return next(f.default for f in schema.__dataclass_fields__.values() if f.name == name)
    assert issubclass(schema, BaseModel)
    field = schema.model_fields[name]
    return ... if field.is_required() else field.default


def _type_name(hint: Any) -> str:
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return re.sub(r"\b(typing|unmask(\.\w+)*)\.", "", str(hint))
