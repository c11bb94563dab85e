"""The ways a model is measured: sampler, greedy or sampled, generation length. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from unmask.config import TrainConfig
from unmask.sampling.settings import Sampler
from unmask.tasks.base import check_choice


@dataclass(frozen=True)
class Condition:
    """One way of writing completions, under the name that results are reported by.

    Attributes:
        name: such as "greedy", "sampled/256" or "fast/greedy/512".
        sampler: the settings.
        num_samples: completions of each problem.
    """

    name: str
    sampler: Sampler
    num_samples: int = 1

    def settings(self) -> dict[str, Any]:
        """The sampler's settings, for the manifest."""
        return asdict(self.sampler)


def conditions(config: TrainConfig) -> list[Condition]:
    """What `evaluation` asks for: named samplers x greedy and sampled x generation lengths.

    A name has a part for each of the three that was chosen.

    Raises:
        ValueError: for a sampler or length that does not fit, or if nothing is asked for.
    """
    settings = config.evaluation
    lengths: Sequence[int | None] = settings.gen_length or (None,)
    found = []
    for prefix, base in _samplers(config).items():
        for mode, temperature in (("greedy", 0.0), ("sampled", settings.temperature)):
            if not getattr(settings, mode):
                continue
            for length in lengths:
                parts = [prefix, mode, str(length) if length else ""]
                found.append(
                    Condition(
                        "/".join(filter(None, parts)),
                        replace(at_length(base, length), temperature=temperature),
                        settings.num_samples if mode == "sampled" else 1,
                    )
                )
    if not found:
        raise ValueError(
            "evaluation.greedy=False and evaluation.sampled=False leave nothing to measure: set one"
        )
    return found


def at_length(sampler: Sampler, gen_length: int | None) -> Sampler:
    """The same sampler on another canvas, with steps in proportion and blocks as they are.

    A canvas of one block stays one block.

    Raises:
        ValueError: if steps or blocks do not come out even.
    """
    if gen_length is None or gen_length == sampler.gen_length:
        return sampler
    steps, rest = divmod(sampler.steps * gen_length, sampler.gen_length)
    if rest:
        raise ValueError(
            f"evaluation.gen_length={gen_length}: sampler.steps={sampler.steps} of "
            f"sampler.gen_length={sampler.gen_length} do not scale to it evenly; choose another "
            "length or number of steps"
        )
    whole = sampler.block_length == sampler.gen_length
    block_length = gen_length if whole else sampler.block_length
    try:
        return replace(sampler, gen_length=gen_length, steps=steps, block_length=block_length)
    except ValueError as error:
        raise ValueError(f"evaluation.gen_length={gen_length}: {error}") from None


def _samplers(config: TrainConfig) -> dict[str, Sampler]:
    named = {}
    for name, changes in config.evaluation.samplers.items():
        where = f"evaluation.samplers.{name}"
        for key in changes:
            check_choice(f"{where}: key", key, [field.name for field in fields(Sampler)])
        try:
            named[name] = replace(config.sampler, **changes)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from None
    return named or {"": config.sampler}
