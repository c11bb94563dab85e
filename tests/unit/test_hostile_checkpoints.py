"""Checkpoints and prompts that are damaged or made to do harm: one line each, in good time."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_families import checkpoint, load
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from unmask.chat import chat
from unmask.models.adapt import adapt
from unmask.models.policy import load_policy
from unmask.models.settings import LoRA
from unmask.sampling.sampler import sample
from unmask.sampling.settings import Sampler
from unmask.watch import watch_completion

SMALL = ["sampler={gen_length: 8, block_length: 4, steps: 4}"]


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_policy(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


def with_index(folder: Path, shards: dict[str, Any]) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def change_weight(folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights[name] = change(weights[name])
    save_file(weights, file, {"format": "pt"})


def change_vocabulary(folder: Path, change: Callable[[dict[str, int]], Any]) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content["model"]["vocab"])
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("shard", [1, None, "../part.safetensors", "/etc/hostname", "", "x\0y"])
def test_an_index_names_files_of_its_own_folder(shard: Any, tmp_path: Path) -> None:
    folder = checkpoint("sdar", tmp_path / "model")
    with_index(folder, {"model.norm.weight": shard})
    assert "model.safetensors.index.json" in refusal(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"n_layers":' + "9" * 5000])
def test_a_config_that_json_gives_up_on_is_refused(text: str, tmp_path: Path) -> None:
    folder = checkpoint("llada", tmp_path / "model")
    (folder / "config.json").write_text(text)
    assert "config.json is no valid JSON" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "field", "value", "word"),
    [
        ("llada", "n_layers", 9999, "n_layers=9999"),
        ("llada", "n_layers", 10**9, "num_hidden_layers"),
        ("dream", "num_hidden_layers", 10**30, "num_hidden_layers"),
        ("llada_moe", "num_hidden_layers", 10**9, "num_hidden_layers"),
        ("llada_moe", "num_experts", 10**9, "missing keys"),
        ("llada2", "num_experts", 10**9, "missing keys"),
        ("llada_moe", "num_experts_per_tok", 10**9, "cannot be run"),
        ("llada_moe", "num_experts_per_tok", 0, "num_experts_per_tok"),
        ("llada_moe", "num_experts_per_tok", -1, "num_experts_per_tok"),
        ("llada2", "n_group", 0, "n_group"),
        ("llada2", "n_group", 3, "cannot be run"),
        ("llada2", "topk_group", 0, "topk_group"),
        ("llada2", "partial_rotary_factor", 1.5, "cannot be run"),
        ("llada2", "partial_rotary_factor", 1e9, "rotary"),
        ("llada2", "vocab_size", ..., "has no vocab_size"),
        ("dream", "rms_norm_eps", ..., "has no rms_norm_eps"),
        ("sdar", "rope_theta", float("inf"), "rope_theta"),
        ("llada", "rope_theta", -1, "rope_theta"),
        ("sdar", "block_size", 10**20, "model.block_length"),
        ("sdar", "hidden_size", -64, "hidden_size"),
    ],
)
def test_numbers_that_no_checkpoint_has_are_refused_in_good_time(
    name: str, field: str, value: Any, word: str, tmp_path: Path
) -> None:
    folder = checkpoint(name, tmp_path / "model", **{field: value})
    start = time.monotonic()
    assert word in refusal(folder)
    assert time.monotonic() - start < 30


def test_too_many_layers_are_not_adapted_either(tmp_path: Path) -> None:
    folder = checkpoint("dream", tmp_path / "model", model_type="qwen2", num_hidden_layers=10**9)
    with pytest.raises(ValueError, match="num_hidden_layers=1000000000"):
        adapt(str(folder), tmp_path / "out")


def test_too_many_layers_of_transformers_own_config_are_refused_too(tmp_path: Path) -> None:
    fields = {"model_type": "qwen2", "is_causal": False, "num_hidden_layers": 10**9}
    assert "num_hidden_layers" in refusal(checkpoint("dream", tmp_path / "model", **fields))


@pytest.mark.parametrize("record", ["text", 5, ["list"]])
def test_a_record_that_is_none_is_refused(record: Any, tmp_path: Path) -> None:
    fields = {"model_type": "qwen2", "is_causal": False, "unmask_family": record}
    assert "unmask_family" in refusal(checkpoint("dream", tmp_path / "model", **fields))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value * float("nan"), "NaN or infinite in model.layers.0.self_attn.q_proj"),
        (lambda value: value.index_fill(0, torch.tensor(3), float("inf")), "NaN or infinite"),
        (lambda value: value.to(torch.int8), "q_proj.weight as I8"),
        (lambda value: value.to(torch.complex64), "q_proj.weight as C64"),
    ],
)
def test_weights_that_cannot_be_computed_with_are_named(
    change: Callable[[Tensor], Tensor], words: str, tmp_path: Path
) -> None:
    folder = checkpoint("sdar", tmp_path / "model")
    change_weight(folder, "model.layers.0.self_attn.q_proj.weight", change)
    assert words in refusal(folder)


def test_weights_that_the_dtype_is_too_narrow_for_are_named(tmp_path: Path) -> None:
    folder = checkpoint("sdar", tmp_path / "model")
    change_weight(folder, "model.norm.weight", lambda value: value * 1e6)
    load_policy(str(folder))
    with pytest.raises(ValueError, match=r"model\.norm\.weight.*float16 is too narrow"):
        load_policy(str(folder), dtype="float16")


def test_zero_weights_are_not_taken_for_causal_attention(tmp_path: Path) -> None:
    folder = checkpoint("sdar", tmp_path / "model")
    file = folder / "model.safetensors"
    save_file({name: value * 0 for name, value in load_file(file).items()}, file, {"format": "pt"})
    assert "its weights are zero" in refusal(folder)


@pytest.mark.parametrize("name", ["llada", "dream", "sdar"])
def test_a_tokenizer_may_leave_ids_out_and_they_are_never_placed(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path / "model")
    change_vocabulary(folder, lambda words: [words.pop(f"w{number}") for number in (50, 51, 52)])
    policy = load_policy(str(folder))
    logits = policy.denoiser.propose(torch.tensor([[1, 2, 3]]), None, torch.tensor([[1, 2]]))
    assert logits[..., 50:53].isneginf().all()
    left_out = {50, 51, 52, policy.family.mask_token_id}
    assert {token for token in range(128) if logits[0, 0, token].isneginf()} == left_out


def test_a_token_behind_the_embeddings_is_refused(tmp_path: Path) -> None:
    folder = checkpoint("llada", tmp_path / "model")
    change_vocabulary(folder, lambda words: (words.pop("w50"), words.update(far=5000)))
    assert "128 embeddings for a tokenizer of 5001 tokens" in refusal(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('no') }}",
        "{{ a.b.c }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__()[0]() }}",
    ],
)
def test_a_template_that_fails_is_one_line(template: str, tmp_path: Path) -> None:
    policy = load("dream", tmp_path / "model")
    policy.tokenizer.chat_template = template
    with pytest.raises(ValueError, match="the chat template of") as caught:
        policy.encode([{"role": "user", "content": "w1"}])
    assert "\n" not in str(caught.value)


def with_adapters(folder: Path) -> Path:
    """The folder of adapters on a checkpoint beside it."""
    policy = load("sdar", folder / "base", lora=LoRA(r=2, alpha=4))
    policy.save(folder / "adapters")
    return folder / "adapters"


def change_adapters(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


def narrow(weights: dict[str, Tensor]) -> None:
    name = min(weights)
    weights[name] = weights[name][:, :-1].clone()


def pickle(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()


def cut_off(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])


def config_with(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (pickle, "has no adapter_model.safetensors"),
        (cut_off, "do not fit their base or are damaged"),
        (lambda folder: change_adapters(folder, narrow), "do not fit their base"),
        (lambda folder: change_adapters(folder, lambda w: w.pop(min(w))), "is missing or left"),
        (
            lambda folder: change_adapters(folder, lambda w: w.update({"a.lora_A": w[min(w)] + 0})),
            "a.lora_A is missing or left over",
        ),
        (config_with(r=7), "do not fit their base"),
        (config_with(r="x"), "do not fit their base"),
        (config_with(peft_type="PROMPT_TUNING"), "only LORA"),
        (config_with(target_modules=["none"]), "do not fit their base"),
        (lambda folder: (folder / "unmask.json").write_text('{"family": 5}'), "family=5"),
    ],
)
def test_spoiled_adapters_are_refused_in_one_line(
    spoil: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    folder = with_adapters(tmp_path)
    load_policy(str(folder))
    spoil(folder)
    assert words in refusal(folder)


def test_text_that_is_no_unicode_is_one_line(tmp_path: Path) -> None:
    policy = load("dream", tmp_path / "model")
    with pytest.raises(ValueError, match="valid UTF-8"):
        policy.encode("w1 \udcff")


def test_a_prompt_with_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    file = io.StringIO()
    folder = str(checkpoint("llada", tmp_path / "model"))
    watch_completion(folder, "[red]w1[/blue]", SMALL, Console(file=file, width=80), 0.0)
    assert "[red]w1[/blue]" in file.getvalue()


def test_watching_and_chatting_take_overrides_of_the_model(tmp_path: Path) -> None:
    # Its name, its config and its tokenizer say nothing of the mask token.
    folder = checkpoint("llada_moe", tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.write_text(file.read_text().replace("<|mask|>", "<|musk|>"))
    console = Console(file=io.StringIO(), width=80)
    options = [*SMALL, "model.mask_token_id=126", "model.dtype=bfloat16"]
    watch_completion(str(folder), "w1", options, console, 0.0)
    answers = iter(["w1", "/quit"])
    chat(str(folder), options, console, 0.0, lambda _: next(answers))
    for command in (
        lambda given: watch_completion(str(folder), "w1", given, console, 0.0),
        lambda given: chat(str(folder), given, console, 0.0, lambda _: "/quit"),
    ):
        with pytest.raises(ValueError, match=r"model\.mask_token_id"):
            command(SMALL)
        with pytest.raises(ValueError, match=r"model\.path=other beside MODEL"):
            command([*options, "model.path=other"])


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_block_causal_network_writes_without_a_prompt(cache: Any, tmp_path: Path) -> None:
    policy = load("sdar", tmp_path / "model")
    # Nothing but hidden tokens looks the same everywhere: every other order would have ties.
    settings = Sampler(
        gen_length=8,
        block_length=4,
        steps=8,
        temperature=0,
        cache=cache,
        remasking="left_to_right",
    )
    seeds = torch.zeros(2, dtype=torch.int64)
    prompts = torch.zeros(2, 0, dtype=torch.int64)
    alone = sample(policy.denoiser, prompts, None, seeds, settings)
    padded, mask = policy.pad_prompts([[], [3, 4]])
    among = sample(policy.denoiser, padded, mask, seeds, settings)
    assert alone.completion_ids[0].tolist() == among.completion_ids[0].tolist()
