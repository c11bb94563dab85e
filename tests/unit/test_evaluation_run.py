"""`unmask eval` end to end on a tiny model: kept, resumed, scored again, compared."""

import json
from pathlib import Path

import pytest

from unmask.config import TrainConfig
from unmask.evaluation.compare import compare_evaluations
from unmask.evaluation.conditions import conditions
from unmask.evaluation.run import rescore, run_evaluation
from unmask.evaluation.samples import read_samples
from unmask.recipe import ConfigError, load_config

SETTINGS = [
    "sampler={gen_length: 16, block_length: 8, steps: 8}",
    "evaluation.num_examples=5",
    "evaluation.num_samples=4",
    "evaluation.k=[1,2,4]",
    "model.dtype=float32",
]


def settings(model: Path, *overrides: str) -> TrainConfig:
    config = load_config(["sudoku-tiny", f"model.path={model}", *SETTINGS, *overrides], "train")
    assert isinstance(config, TrainConfig)
    return config


@pytest.fixture
def count_generated(monkeypatch):
    """Prompts that were handed to the sampler, and a fuse that blows after so many calls."""
    from unmask.evaluation import run

    seen: dict[str, int] = {"prompts": 0, "calls": 0, "fuse": 10**9}
    original = run.generate

    def generate(policy, prompts, *arguments, **options):
        if seen["calls"] == seen["fuse"]:
            raise KeyboardInterrupt
        seen["calls"] += 1
        seen["prompts"] += len(prompts)
        return original(policy, prompts, *arguments, **options)

    monkeypatch.setattr(run, "generate", generate)
    return seen


def test_results_have_every_rate_with_its_interval(tiny_model, tmp_path) -> None:
    done = run_evaluation(settings(tiny_model), tmp_path)
    assert list(done.results) == ["greedy", "sampled"]
    assert (done.results["greedy"]["n"], done.results["greedy"]["num_samples"]) == (5, 1)
    sampled = done.results["sampled"]
    assert sampled["num_samples"] == 4
    for metric in ("pass@2", "pass@4", "maj@4"):
        assert 0 <= sampled[metric]["low"] <= sampled[metric]["value"] <= sampled[metric]["high"]
    content = json.loads((tmp_path / "eval.json").read_text())
    assert content["greedy"] == json.loads(json.dumps(done.results["greedy"]))
    identity = content["manifest"]["identity"]
    assert identity["model"]["dtype"] == "float32"
    assert identity["conditions"]["greedy"]["temperature"] == 0
    assert {"torch", "transformers", "processor"} <= content["manifest"]["environment"].keys()
    assert len(read_samples(tmp_path / "samples.jsonl")) == 5 + 20


def test_killed_and_started_again_it_writes_nothing_twice(
    tiny_model, tmp_path, count_generated
) -> None:
    whole = run_evaluation(settings(tiny_model), tmp_path / "whole")
    assert count_generated["prompts"] == 25
    count_generated |= {"prompts": 0, "calls": 0, "fuse": 3}
    config = settings(tiny_model, "training.max_tokens_per_batch=100")
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(config, tmp_path / "parts")
    written = read_samples(tmp_path / "parts" / "samples.jsonl")
    assert len(written) == count_generated["prompts"] > 0
    # A kill in the middle of a line.
    with (tmp_path / "parts" / "samples.jsonl").open("a") as file:
        file.write('{"condition": "greedy", "ind')
    count_generated["fuse"] = 10**9
    again = run_evaluation(config, tmp_path / "parts")
    assert count_generated["prompts"] == 25
    assert again.rows == whole.rows
    assert again.results == whole.results
    run_evaluation(config, tmp_path / "parts")
    assert count_generated["prompts"] == 25


def test_more_samples_add_to_those_there_are(tiny_model, tmp_path, count_generated) -> None:
    few = run_evaluation(
        settings(tiny_model, "evaluation.num_samples=2", "evaluation.k=[2]"), tmp_path
    )
    count_generated["prompts"] = 0
    more = run_evaluation(settings(tiny_model), tmp_path)
    assert count_generated["prompts"] == 10
    key = [(row["condition"], row["index"], row["sample"]) for row in few.rows]
    assert [row for row in more.rows if (row["condition"], row["index"], row["sample"]) in key] == (
        few.rows
    )


def test_a_folder_with_another_evaluation_is_refused(tiny_model, tmp_path) -> None:
    run_evaluation(settings(tiny_model), tmp_path)
    with pytest.raises(ValueError, match=r"another conditions\.greedy\.steps"):
        run_evaluation(settings(tiny_model, "sampler.steps=16"), tmp_path)
    with pytest.raises(ValueError, match=r"another dataset_hash, .* seed"):
        run_evaluation(settings(tiny_model, "seed=1"), tmp_path)


@pytest.mark.parametrize("max_tokens", [1, 70, 4096])
def test_no_batch_size_changes_a_number(tiny_model, tmp_path, max_tokens: int) -> None:
    config = settings(tiny_model, f"training.max_tokens_per_batch={max_tokens}")
    done = run_evaluation(config, keep=False)
    expected = run_evaluation(settings(tiny_model), keep=False)
    assert done.rows == expected.rows
    assert done.results == expected.results


def test_below_float32_the_deviation_is_measured(tiny_model) -> None:
    config = settings(tiny_model, "model.dtype=bfloat16")
    deviation = run_evaluation(config, keep=False).manifest["batch_deviation"]
    assert deviation["prompts"] == 5
    assert 0 <= deviation["tokens_changed"] <= 1
    whole = run_evaluation(settings(tiny_model), keep=False)
    assert "batch_deviation" not in whole.manifest


def test_rescoring_needs_no_model_and_gives_the_same(tiny_model, tmp_path, monkeypatch) -> None:
    done = run_evaluation(settings(tiny_model), tmp_path)
    from unmask.evaluation import run

    monkeypatch.setattr(run, "load_policy", None)
    rows = read_samples(tmp_path / "samples.jsonl")
    for row in rows:
        row["solved"] = row["reward"] = None
    rows[0]["completion"] = rows[0]["columns"]["solution"]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "samples.jsonl").write_text(text)
    again = rescore(tmp_path / "samples.jsonl", None)
    assert again.rows[0]["solved"] == 1.0
    assert [row["solved"] for row in again.rows[1:]] == [row["solved"] for row in done.rows[1:]]
    assert json.loads((tmp_path / "eval.json").read_text())["manifest"]["rescored"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no completions"),
        ('{"condition": 1}\n', "line 1 is no completion"),
        ("[1]\n", "line 1 is no completion"),
        ("not json\n", "line 1 is no completion"),
    ],
)
def test_a_file_that_is_no_samples_file_is_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "samples.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        rescore(tmp_path / "samples.jsonl", None)
    with pytest.raises(ValueError, match=r"absent\.jsonl does not exist"):
        rescore(tmp_path / "absent.jsonl", None)


def altered(folder: Path, target: Path, solved: dict[int, float]) -> Path:
    """A copy of an evaluation in which some first samples are solved, or not."""
    target.mkdir()
    rows = read_samples(folder / "samples.jsonl")
    for row in rows:
        if row["condition"] == "greedy":
            row["solved"] = solved.get(row["index"], 0.0)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (target / "samples.jsonl").write_text(text)
    return target


def test_comparing_lists_prompts_won_and_lost(tiny_model, tmp_path) -> None:
    run_evaluation(settings(tiny_model), tmp_path / "run")
    a = altered(tmp_path / "run", tmp_path / "a", {0: 1.0, 1: 1.0})
    b = altered(tmp_path / "run", tmp_path / "b", {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0})
    found = compare_evaluations(a, b / "samples.jsonl")["greedy"]
    assert (found["first"], found["second"], found["n"]) == (0.4, 0.8, 5)
    assert [entry["index"] for entry in found["won"]] == [2, 3, 4]
    assert [entry["index"] for entry in found["lost"]] == [0]
    assert found["p"] == pytest.approx(2 * (1 + 4) / 16)
    assert found["same_text"] == 1.0
    assert compare_evaluations(a, a)["greedy"]["p"] == 1.0


def test_nothing_in_common_is_refused(tiny_model, tmp_path) -> None:
    run_evaluation(settings(tiny_model, "evaluation.sampled=false"), tmp_path / "a")
    run_evaluation(settings(tiny_model, "evaluation.greedy=false"), tmp_path / "b")
    with pytest.raises(ValueError, match=r"conditions greedy and .* has sampled"):
        compare_evaluations(tmp_path / "a", tmp_path / "b")
    run_evaluation(settings(tiny_model, "evaluation.sampled=false", "seed=9"), tmp_path / "c")
    with pytest.raises(ValueError, match="no problem in common"):
        compare_evaluations(tmp_path / "a", tmp_path / "c")


# --- what is measured ---------------------------------------------------------------------------


def test_lengths_and_samplers_multiply(tiny_model) -> None:
    config = settings(
        tiny_model,
        "eval.gen_length=[8,16,32]",
        "eval.samplers={plain: {}, careful: {steps: 16}}",
    )
    found = {condition.name: condition for condition in conditions(config)}
    assert len(found) == 2 * 2 * 3
    sampler = found["careful/greedy/32"].sampler
    assert (sampler.gen_length, sampler.block_length, sampler.steps) == (32, 8, 32)
    assert sampler.temperature == 0
    assert found["plain/sampled/8"].sampler.steps == 4
    assert (found["plain/sampled/8"].num_samples, found["plain/greedy/8"].num_samples) == (4, 1)


def test_one_length_may_be_given_alone(tiny_model) -> None:
    names = [condition.name for condition in conditions(settings(tiny_model, "eval.gen_length=32"))]
    assert names == ["greedy/32", "sampled/32"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.gen_length=[17]", r"evaluation.gen_length=17: sampler.steps=8"),
        ("eval.gen_length=[4]", r"evaluation.gen_length=4: gen_length=4 is not a multiple"),
        ("eval.samplers={a: {stepz: 3}}", r"evaluation.samplers.a: key 'stepz'.*'steps'"),
        ("eval.samplers={a: {steps: 3}}", r"evaluation.samplers.a: steps=3 does not split"),
        ("eval={greedy: false, sampled: false}", "leave nothing to measure"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_model, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conditions(settings(tiny_model, override))


def test_k_above_the_number_of_samples_is_refused(tiny_model) -> None:
    with pytest.raises(ConfigError, match=r"evaluation.k=\[8\] with evaluation.num_samples=4"):
        settings(tiny_model, "evaluation.k=8")


def test_an_empty_split_is_refused(tiny_model, tmp_path) -> None:
    (tmp_path / "empty.csv").write_text("prompt,puzzle,solution\n")
    config = settings(tiny_model, f"task.dataset={tmp_path / 'empty.csv'}")
    with pytest.raises(ValueError, match=r"has no problems|cannot be read"):
        run_evaluation(config, keep=False)
