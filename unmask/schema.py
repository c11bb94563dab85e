"""How a section of a recipe is declared, and how what is wrong with one is told in a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


def by_name(registry: Mapping[str, type], kind: str) -> tuple[BeforeValidator, PlainSerializer]:
    """Validate `{name: …, **settings}` into an instance of the class of that name, and back."""

    def build(value: Any) -> Any:
        if isinstance(value, tuple(registry.values())):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r}: give a mapping with a name and settings")
        settings = dict(value)
        name = settings.pop("name", None)
        if not isinstance(name, str) or name not in registry:
            raise ValueError(f"name={name!r} is unknown: choose {', '.join(registry)}")
        try:
            return TypeAdapter(registry[name]).validate_python(settings)
        except ValidationError as error:
            raise ValueError(describe(error, registry[name], f"{kind}.")) from None

    def dump(value: Any) -> dict[str, Any]:
        name = next(name for name, cls in registry.items() if type(value) is cls)
        return {"name": name, **asdict(value)}

    return BeforeValidator(build), PlainSerializer(dump)


def field_names(cls: type) -> list[str]:
    """Keys that a section takes."""
    if is_dataclass(cls):
        return [field.name for field in fields(cls)]
    return list(getattr(cls, "model_fields", {}))


def describe(error: ValidationError, cls: type, prefix: str = "") -> str:
    """A validation error in one line: path, value, rule; for an unknown key the nearest ones.

    Args:
        error: from validating `cls`.
        cls: a section.
        prefix: of every path, such as "objective.".
    """
    rules: dict[str, list[str]] = {}
    for item in error.errors():
        subject, rule = _describe_one(item, cls)
        rules.setdefault(subject, []).append(rule)
    # Each member of a union says what it would have taken.
    lines = [subject + ", or ".join(found) for subject, found in rules.items()]
    return "; ".join(prefix + line for line in lines)


def _describe_one(item: Any, cls: type) -> tuple[str, str]:
    *outer, last = item["loc"] or [""]
    path, free = [], False
    for part in outer:
        # What is no key names a member of a union.
        if isinstance(part, int) or part in field_names(cls) or free:
            path.append(str(part))
        free = part in field_names(cls) and get_origin(get_type_hints(cls)[part]) is dict
        cls = section_type(cls, part)
    known = field_names(cls)
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(known)}"
        return f"{'.'.join([*path, str(last)])} is an unknown key: ", hint
    if isinstance(last, int) or last in known or free:
        path.append(str(last))
    where = ".".join(path)
    if item["type"] == "missing":
        return f"{where} is missing: ", "give a value"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] != "value_error":
        return f"{where}={item['input']!r}: ", message
    if not where or message.startswith(f"{where}."):
        return "", message
    # A check over settings that belong together begins with one of them.
    return (f"{where}." if re.match(r"\w+=", message) else f"{where}: "), message


def takes_number(cls: type, key: str) -> bool:
    """Whether a key takes a number and no switch, which pydantic would read as 0 or 1."""
    pending, found = [get_type_hints(cls)[key]], set()
    while pending:
        hint = pending.pop()
        found.add(hint if isinstance(hint, type) else None)
        pending += get_args(hint)
    return bool(found & {int, float}) and bool not in found


def section_type(cls: type, key: Any) -> type:
    """The class of the section, or of a list of sections, under a key; `cls` if there is none."""
    if key not in field_names(cls):
        return cls
    pending = [get_type_hints(cls)[key]]
    while pending:
        hint = pending.pop(0)
        if isinstance(hint, type) and field_names(hint):
            return hint
        pending += get_args(hint)
    return object
