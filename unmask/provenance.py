"""Where each value of a resolved config came from: the command line, the recipe or a paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf

from unmask.config import TrainConfig
from unmask.recipe import flatten, load_config, parse_overrides, read_layers, to_yaml

# Where the notes begin; longer lines push theirs to the right.
COLUMN = 44


def annotated_yaml(arguments: Sequence[str]) -> str:
    """The resolved config of `[RECIPE] [key=value …]`, each value with its origin as a comment.

    Raises:
        ConfigError: as `load_config`.
    """
    config = load_config(arguments)
    text = to_yaml(config)
    resolved = flatten(config.model_dump(mode="json"))
    path, content, overrides = read_layers(arguments)
    origins = dict.fromkeys(resolved, "default")
    if isinstance(config, TrainConfig):
        name = resolved["objective.name"]
        for key, value in flatten(config.objective.paper).items():
            if resolved.get(key) == value:
                origins[key] = f"paper of {name}"
    origins |= dict.fromkeys(flatten(_plain(content)), path.name)
    origins |= dict.fromkeys(flatten(parse_overrides(overrides)), "command line")
    lines = text.splitlines()
    for key, line in _lines(yaml.compose(text), ""):
        lines[line] = f"{lines[line]:<{COLUMN}}  # {origins[key]}"
    return "\n".join(lines) + "\n"


def _plain(content: Any) -> Mapping[str, Any]:
    plain: Any = OmegaConf.to_container(content)
    return plain


def _lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    """(dotted key, number of the line that may end with a comment) of every leaf."""
    assert isinstance(node, yaml.MappingNode)
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _lines(value, f"{path}.")
        elif isinstance(value, yaml.MappingNode):
            continue  # an empty mapping has no leaf
        else:
            block = isinstance(value, yaml.SequenceNode) and not value.flow_style
            yield path, (key if block else value).end_mark.line
