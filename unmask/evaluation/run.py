"""`unmask eval`: write completions, keep each one, score them, sum up. Killed, it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.config import TrainConfig
from unmask.evaluation.conditions import Condition, conditions
from unmask.evaluation.manifest import differences, make_manifest, problem_hash
from unmask.evaluation.samples import (
    SAMPLES_FILE,
    Row,
    append_samples,
    content_hash,
    read_samples,
    row_key,
    score_samples,
    write_samples,
)
from unmask.evaluation.summary import summarise_rows
from unmask.generation import generate
from unmask.maskings import derive_seed
from unmask.models.policy import Policy, load_policy
from unmask.recipe import validate
from unmask.training.data import Example, encode_examples
from unmask.training.run_folder import RunFolder
from unmask.training.setup import build_scoring, encoder, evaluation_data, is_own_data, task_of

RESULT_FILE = "eval.json"
MANIFEST_FILE = "manifest.json"
# Prompts that are written again one by one to see what batching changes below float32.
DEVIATION_PROMPTS = 8

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        results: what `summarise_rows` gives, by the name of the condition.
        rows: every completion, scored.
        manifest: see `unmask.evaluation.manifest.make_manifest`.
        folder: where it is kept; None = nowhere.
    """

    results: dict[str, dict[str, Any]]
    rows: list[Row]
    manifest: dict[str, Any]
    folder: Path | None


def evaluate(config: TrainConfig, policy: Policy | None = None) -> dict[str, dict[str, Any]]:
    """Measure a recipe's model on its held-out problems, without keeping the completions.

    Args:
        config: `model`, `task`, `reward`, `sampler`, `evaluation` and `seed` are read.
        policy: already loaded; None loads `config.model`.

    Returns:
        What `summarise_rows` gives, by the name of the condition: "greedy" and "sampled" unless
        several lengths or samplers are measured.

    Raises:
        ValueError: for a model or data that do not fit.
    """
    return run_evaluation(config, policy=policy, keep=False).results


def run_evaluation(
    config: TrainConfig,
    output: Path | None = None,
    *,
    policy: Policy | None = None,
    keep: bool = True,
    on_progress: OnProgress = lambda _: None,
) -> Evaluation:
    """Measure a model; started again with the same settings it goes on where it was killed.

    Args:
        config: as for `evaluate`.
        output: a folder, or the path of eval.json; None = a folder under runs/ that is named
            after what is measured.
        policy: already loaded; None loads `config.model`.
        keep: write samples.jsonl, manifest.json and eval.json.
        on_progress: told what is going on.

    Raises:
        ValueError: for a model or data that do not fit, or a folder that holds another evaluation.
    """
    measured = conditions(config)
    task = task_of(config)
    terms, exact = build_scoring(config, task, given=is_own_data(config))
    data = evaluation_data(config, task)
    if policy is None:
        on_progress("loading the model")
        policy = load_policy(**config.model.for_use)
    examples = encode_examples(
        data,
        encoder(policy, config),
        max_prompt_length=config.task.max_prompt_length,
        long_prompts=config.task.long_prompts,
        source="the evaluation set",
    )
    longest = max(len(example.prompt_ids) for example in examples)
    policy.require_room(longest + max(item.sampler.gen_length for item in measured))
    manifest = make_manifest(config, policy, examples, measured, terms)
    manifest["config"] = config.model_dump(mode="json")
    place = _Place(output, manifest) if keep else None
    kept = place.open() if place else []
    rows = _write_missing(policy, config, examples, measured, kept, place, on_progress)
    if manifest["identity"]["model"]["dtype"] != "float32":
        on_progress("measuring what the batch size changes")
        manifest["batch_deviation"] = _batch_deviation(policy, config, examples, measured[0], rows)
    on_progress("scoring")
    rows = score_samples(rows, terms, exact, getattr(task, "answer", None))
    results = summarise_rows(rows, config.evaluation.k)
    if place:
        wanted = set(map(row_key, rows))
        # Samples of an earlier start that asked for more stay.
        place.close([*rows, *(row for row in kept if row_key(row) not in wanted)], results)
    return Evaluation(results, rows, manifest, place.folder if place else None)


def rescore(samples: Path, config: TrainConfig | None, output: Path | None = None) -> Evaluation:
    """Score the completions of an earlier evaluation again; no model is loaded.

    Args:
        samples: its samples.jsonl.
        config: task and rewards to score by; None = those of the manifest beside it.
        output: a folder for the result; None = the samples and eval.json are replaced.

    Raises:
        ValueError: if the file is none, or nothing says how to score it.
    """
    rows = read_samples(samples)
    if not rows:
        raise ValueError(f"{samples} holds no completions: give a finished evaluation")
    manifest_file = samples.with_name(MANIFEST_FILE)
    manifest = json.loads(manifest_file.read_text()) if manifest_file.is_file() else {}
    if config is None:
        if "config" not in manifest:
            raise ValueError(
                f"{samples} has no {MANIFEST_FILE} beside it: name the recipe or give "
                "task.name=… to score by"
            )
        validated = validate(TrainConfig, manifest["config"])
        assert isinstance(validated, TrainConfig)
        config = validated
    task = task_of(config)
    terms, exact = build_scoring(config, task, given=is_own_data(config))
    rows = score_samples(rows, terms, exact, getattr(task, "answer", None))
    results = summarise_rows(rows, config.evaluation.k)
    manifest |= {"rescored": True, "config": config.model_dump(mode="json")}
    manifest["rewards"] = [{"name": term.name, "weight": term.weight} for term in terms]
    place = _Place(output or samples.parent, manifest)
    place.close(rows, results)
    return Evaluation(results, rows, manifest, place.folder)


class _Place:
    """The files of an evaluation: samples.jsonl and manifest.json at once, eval.json at the end."""

    def __init__(self, output: Path | None, manifest: dict[str, Any]) -> None:
        self._manifest = manifest
        name = RESULT_FILE
        if output is None:
            identity = manifest["identity"]
            parts = ("eval", Path(identity["model"]["path"]).name, identity["task"]["name"])
            output = Path("runs") / "-".join([*parts, content_hash(identity)[:8]])
        elif output.suffix == ".json":
            output, name = output.parent, output.name
        self.folder, self._name = output, name
        self._files = RunFolder(output)

    @property
    def samples(self) -> Path:
        return self.folder / SAMPLES_FILE

    def open(self) -> list[Row]:
        """Completions that are there already."""
        rows: list[Row] = []
        if self.samples.is_file():
            self._require_same()
            rows = read_samples(self.samples)
            # Without the line that a kill may have cut off.
            write_samples(self.samples, rows)
        self._files.write_json(MANIFEST_FILE, self._manifest)
        return rows

    def close(self, rows: Sequence[Row], results: dict[str, Any]) -> None:
        write_samples(self.samples, rows)
        self._files.write_json(MANIFEST_FILE, self._manifest)
        config = self._manifest["config"]
        content = {**results, "manifest": self._manifest, "config": config}
        self._files.write_json(self._name, content)

    def _require_same(self) -> None:
        file = self.folder / MANIFEST_FILE
        then = json.loads(file.read_text())["identity"] if file.is_file() else {}
        # Through JSON, as the other one went.
        now = json.loads(json.dumps(self._manifest["identity"]))
        changed = differences(then, now)
        if changed:
            raise ValueError(
                f"{self.folder} holds an evaluation with another {', '.join(changed[:4])}: give "
                "another --output, or the settings in its manifest.json to go on with it"
            )


def _write_missing(
    policy: Policy,
    config: TrainConfig,
    examples: Sequence[Example],
    measured: Sequence[Condition],
    rows: list[Row],
    place: _Place | None,
    on_progress: OnProgress,
) -> list[Row]:
    """All rows that are asked for, in order; each batch is kept as soon as it is written."""
    by_key = {row_key(row): row for row in rows}
    wanted = []
    for condition in measured:
        number = [(example, i) for example in examples for i in range(condition.num_samples)]
        wanted += [(condition.name, example.index, i) for example, i in number]
        missing = [
            (example, i)
            for example, i in number
            if (condition.name, example.index, i) not in by_key
        ]
        # Batches of one length waste no padding.
        missing.sort(key=lambda item: len(item[0].prompt_ids), reverse=True)
        start = 0
        while start < len(missing):
            on_progress(f"{condition.name} {len(number) - len(missing) + start}/{len(number)}")
            size = _batch_size(missing[start][0], condition, config)
            new = _write(policy, config, condition, missing[start : start + size])
            start += size
            if place:
                append_samples(place.samples, new)
            by_key |= {row_key(row): row for row in new}
    return [by_key[key] for key in wanted]


def _batch_size(longest: Example, condition: Condition, config: TrainConfig) -> int:
    width = len(longest.prompt_ids) + condition.sampler.gen_length
    # Guidance runs every sequence with and without its prompt.
    width *= 2 if condition.sampler.cfg_scale else 1
    return max(1, config.training.tokens_per_pass // width)


def _write(
    policy: Policy,
    config: TrainConfig,
    condition: Condition,
    batch: Sequence[tuple[Example, int]],
) -> list[Row]:
    sampler = condition.sampler
    seeds = [sample_seed(config.seed, example.index, number) for example, number in batch]
    samples = generate(
        policy,
        [example.prompt_ids for example, _ in batch],
        sampler,
        seeds,
        max_tokens=config.training.tokens_per_pass,
    )
    ids, step_map = samples.completion_ids.tolist(), samples.step_map.tolist()
    return [
        {
            "condition": condition.name,
            "index": example.index,
            "sample": number,
            "problem": problem_hash(example),
            "prompt": example.prompt,
            "completion": policy.decode(ids[row]),
            "completion_ids": ids[row],
            "length": int(samples.lengths[row]),
            "steps": len({step for step in step_map[row] if step < sampler.steps}),
            "seed": seeds[row],
            "columns": example.columns,
        }
        for row, (example, number) in enumerate(batch)
    ]


def sample_seed(seed: int, index: int, number: int) -> int:
    """Seed of one completion: of the evaluation's, the problem's row and the sample's number."""
    if number == 0:  # the one that training measures
        return derive_seed("evaluation", seed, index)
    return derive_seed("evaluation", seed, index, number)


def _batch_deviation(
    policy: Policy,
    config: TrainConfig,
    examples: Sequence[Example],
    condition: Condition,
    rows: Sequence[Row],
) -> dict[str, Any]:
    """How many of the first prompts get another completion when written one by one."""
    before = {row_key(row): row["completion_ids"] for row in rows}
    pairs = []
    for example in examples[:DEVIATION_PROMPTS]:
        [alone] = _write(policy, config, condition, [(example, 0)])
        pairs.append((before[row_key(alone)], alone["completion_ids"]))
    tokens = [a != b for one, other in pairs for a, b in zip(one, other, strict=True)]
    return {
        "condition": condition.name,
        "prompts": len(pairs),
        "completions_changed": sum(one != other for one, other in pairs),
        "tokens_changed": sum(tokens) / len(tokens),
    }
