"""A model must learn: from random weights to a reward near 1, by the library's public interface."""

import json
from pathlib import Path

import datasets
import pytest

import unmask
from unmask.objectives import OBJECTIVES

SETTINGS = {
    "sampler": unmask.Sampler(gen_length=8, block_length=8, steps=4),
    "estimator": {"name": "elbo", "num_mc": 1, "coupled": True},
    "optimizer": {"lr": 3e-3, "max_grad_norm": 1.0},
    "training": {
        "num_rollouts": 40,
        "prompts_per_rollout": 4,
        "num_generations": 8,
        "num_iterations": 2,
        "precision": "fp32",
    },
    "logging": {"trackers": []},
    "checkpoint": {"every": None},
}


def twos(prompts, completions, completion_ids, wanted, **columns):
    """Fraction of the completion that is the digit the data asks for."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [text.count(digit) / 8 for text, digit in zip(texts, wanted, strict=True)]


def trained(folder: Path, model: Path, prompts: list, **settings) -> tuple[unmask.Trainer, list]:
    data = datasets.Dataset.from_dict({"prompt": prompts, "wanted": ["2"] * len(prompts)})
    trainer = unmask.Trainer(
        model=str(model),
        reward=twos,
        train_dataset=data,
        output_dir=str(folder),
        **{**SETTINGS, **settings},
    )
    trainer.train()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return trainer, [row for row in map(json.loads, lines) if row["kind"] == "update"]


def test_espo_learns_from_plain_prompts_and_a_custom_reward(tiny_model, tmp_path):
    trainer, rows = trained(
        tmp_path / "run", tiny_model, ["1..2", "3..4", "22.."], objective=unmask.ESPO(beta=0)
    )
    assert rows[0]["reward"] < 0.3
    assert rows[-1]["reward"] > 0.9
    assert rows[0]["ratio"] == pytest.approx(1.0)
    assert trainer.progress.completions == 40 * 32


def test_lora_learns_from_conversations_and_reloads(tiny_model, tmp_path):
    trainer, rows = trained(
        tmp_path / "run",
        tiny_model,
        [[{"role": "user", "content": "1..2"}]],
        lora=unmask.LoRA(r=8, alpha=16),
        objective=unmask.ESPO(beta=1e-3),
    )
    assert rows[-1]["reward"] > rows[0]["reward"] + 0.3
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert rows[-1]["kl"] > 0
    again = unmask.load_policy(str(tmp_path / "run" / "model"))
    assert again.has_adapters
    first, second = (
        unmask.sample(policy, ["1..2"], SETTINGS["sampler"], seed=7)[0].ids
        for policy in (trainer.policy, again)
    )
    assert first == second
    with pytest.raises(ValueError, match="0 trainable parameters"):
        trained(tmp_path / "frozen", str(tmp_path / "run" / "model"), ["1..2"])


def test_model_is_loadable_by_transformers_alone(tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = {"training": {**SETTINGS["training"], "num_rollouts": 1}}
    trainer, _ = trained(tmp_path / "run", tiny_model, ["1..2"], **settings)
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    ids = tokenizer("1..2" + tokenizer.mask_token, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = network(input_ids=ids).logits
        ours = trainer.policy.denoiser.causal_lm(input_ids=ids).logits
    assert torch.allclose(theirs, ours, atol=1e-6)


def test_astar_po_learns_from_the_references_values(tiny_model, tmp_path):
    _, rows = trained(
        tmp_path / "run",
        tiny_model,
        ["1..2", "3..4"],
        objective=unmask.objectives.AStarPO(beta=0.1, num_values=2),
        estimator={"name": "elbo", "num_mc": 2, "stratified": False},
    )
    assert rows[-1]["reward"] > rows[0]["reward"] + 0.3
    assert rows[0]["log_ref_ratio"] == pytest.approx(0.0, abs=1e-6)
    # V* is that of the reference, which does not learn.
    assert abs(rows[-1]["value"] - rows[0]["value"]) < 0.2


def test_astar_po_updates_on_one_completion_of_a_prompt(tiny_model, tmp_path):
    single = {**SETTINGS["training"], "num_rollouts": 2, "num_generations": 1}
    trainer, rows = trained(
        tmp_path / "run",
        tiny_model,
        ["1..2", "3..4"],
        objective=unmask.objectives.AStarPO(beta=0.1, num_values=2),
        estimator={"name": "elbo", "num_mc": 2, "stratified": False},
        training=single,
    )
    assert trainer.progress.skipped == 0
    assert all(row["grad_norm"] > 0 for row in rows)


def test_vrpo_learns_preferences_of_a_data_set(tiny_model, tmp_path):
    rows = [
        {
            "prompt": f"{digit}..2",
            "chosen": [{"role": "assistant", "content": "1" * 8}],
            "rejected": [{"role": "assistant", "content": "2" * length}],
        }
        for digit, length in ((1, 8), (3, 3), (4, 8))
    ]
    rows.append({**rows[0], "rejected": [{"role": "assistant", "content": "1" * 99}]})
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = unmask.Trainer(
        model=str(tiny_model),
        objective=unmask.objectives.VRPO(),
        task={"dataset": str(data)},
        output_dir=str(tmp_path / "run"),
        **{
            **SETTINGS,
            "training": {"num_rollouts": 20, "prompts_per_rollout": 3, "precision": "fp32"},
        },
    )
    trainer.train()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    updates = [row for row in map(json.loads, lines) if row["kind"] == "update"]
    assert updates[0]["margin"] == pytest.approx(0.0, abs=1e-6)
    assert updates[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert updates[-1]["loss"] < 0.3
    assert updates[-1]["preferred"] == 1.0
    assert trainer.progress.completions == 20 * 6


def test_promising_tokens_that_are_all_tokens_change_nothing_and_few_still_learn(
    tiny_model, tmp_path
):
    short = {"training": {**SETTINGS["training"], "num_rollouts": 2}}
    runs = [
        trained(tmp_path / name, tiny_model, ["1..2"], promising=promising, **short)[1]
        for name, promising in (("plain", None), ("all", {"top_k": 100}))
    ]
    for plain, restricted in zip(*runs, strict=True):
        for key in ("reward", "loss", "grad_norm", "kl"):
            assert restricted[key] == pytest.approx(plain[key], abs=1e-5)
    _, rows = trained(
        tmp_path / "few",
        tiny_model,
        ["1..2"],
        promising={"top_k": 4},
        objective=unmask.ESPO(beta=0),
    )
    assert rows[-1]["reward"] > rows[0]["reward"] + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if not kind.offline])
def test_a_model_learns_with_every_objective(tiny_model, tmp_path, name):
    """By its paper's estimator and advantage, few draws, and a learning rate for this model."""
    estimator = dict(OBJECTIVES[name].paper["estimator"])
    if "num_mc" in estimator:
        estimator["num_mc"] = 2
    settings = {"estimator": estimator, "objective": {"name": name}}
    _, rows = trained(tmp_path / "run", tiny_model, ["1..2", "3..4"], **settings)
    first, last = ([row["reward"] for row in rows][part] for part in (slice(4), slice(-4, None)))
    assert sum(last) / 4 > sum(first) / 4 + 0.2
