"""Recognising families, their special tokens and chat templates, and refusing what does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_families import (
    GOLDEN,
    NAMES,
    OPTIONS,
    TURN_END_ID,
    checkpoint,
    expected,
    load,
    tokenizer,
)
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer

from unmask.cli import main
from unmask.generation import sample
from unmask.models.families import ORIGINALS, find_spec, recognise
from unmask.models.loading import load_tokenizer
from unmask.models.policy import load_policy
from unmask.sampling.settings import Sampler

QUESTION = [{"role": "user", "content": "Hi there"}]
DIALOGUE = [
    {"role": "system", "content": "Be brief"},
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "Why"},
]
# As the authors' own templates render them.
PROMPTS = {
    "llada": "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "dream": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "a2d-qwen3": "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    "<think>\n\n</think>\n\n",
    "sdar": "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "llada_moe": "<role>HUMAN</role>Hi there<|role_end|><role>ASSISTANT</role>",
    "llada2": "<role>SYSTEM</role>detailed thinking off<|role_end|>"
    "<role>HUMAN</role>Hi there<|role_end|><role>ASSISTANT</role>",
}
DIALOGUES = {
    "llada": "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nYes<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhy<|eot_id|>",
    "dream": "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
    "<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>user\nWhy<|im_end|>\n",
    "llada2": "<role>SYSTEM</role>Be brief<|role_end|><role>HUMAN</role> Hi <|role_end|>"
    "<role>ASSISTANT</role>Yes<|role_end|><role>HUMAN</role>Why<|role_end|>",
}


def render(name: str, folder: Path, messages: list[dict[str, str]], opened: bool = True) -> str:
    policy = load(name, folder)
    return str(
        policy.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=opened,
            **policy.family.spec.template_options,
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_question_is_rendered_as_the_authors_render_it(name: str, tmp_path: Path) -> None:
    assert render(name, tmp_path / "model", QUESTION) == PROMPTS[name]


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_whole_dialogue_is_rendered_without_an_opened_answer(name: str, tmp_path: Path) -> None:
    assert render(name, tmp_path / "model", DIALOGUE, opened=False) == DIALOGUES[name]


def test_thinking_is_switched_off_only_where_it_is_asked_for(tmp_path: Path) -> None:
    policy = load("sdar", tmp_path / "model")
    off = policy.tokenizer.apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert off == PROMPTS["sdar"] + "<think>\n\n</think>\n\n"


def test_a_checkpoints_own_template_stays_unless_it_always_opens_an_answer(
    tmp_path: Path,
) -> None:
    own = "{{ messages[0]['content'] }}{% if add_generation_prompt %}>{% endif %}"
    for number, (template, wanted) in enumerate(
        [(own, "Hi there>"), ("{{ messages[0]['content'] }}>", PROMPTS["llada"])]
    ):
        folder = checkpoint("llada", tmp_path / str(number))
        changed = tokenizer("llada")
        changed.chat_template = template
        changed.save_pretrained(folder)
        policy = load_policy(str(folder))
        found = policy.tokenizer.apply_chat_template(
            QUESTION, tokenize=False, add_generation_prompt=True
        )
        assert found == wanted


@pytest.mark.parametrize("name", NAMES)
def test_every_family_writes_completions(name: str, tmp_path: Path) -> None:
    policy = load(name, tmp_path / "model")
    settings = {"gen_length": 16, "block_length": 4, "steps": 16, "temperature": 1.0}
    prompts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10"]
    both = sample(policy, prompts, Sampler(**settings))
    for row, completion in enumerate(both):
        assert len(completion.ids) == 16
        assert policy.family.mask_token_id not in completion.ids
        assert completion.ids == sample(policy, prompts, Sampler(**settings))[row].ids


def byte_tokenizer(folder: Path, **config: Any) -> None:
    """vocab.json, merges.txt and tokenizer_config.json as Dream and SDAR ship them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    vocabulary |= {"he": 256, "Ġt": 257}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nh e\nĠ t\n")
    special = {258: "<|endoftext|>", 259: "<|im_end|>", 260: "<|mask|>"}
    content = {
        "added_tokens_decoder": {
            str(number): {"content": text, "special": True} for number, text in special.items()
        },
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        (
            "dream",
            {
                "tokenizer_class": "DreamTokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
            },
        ),
        (
            "sdar",
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_qwen2.Qwen2Tokenizer", None]},
            },
        ),
    ],
)
def test_tokenizers_with_code_of_their_own_load_natively(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    byte_tokenizer(tmp_path, **config)
    spec = next(spec for spec in ORIGINALS if spec.name == name)
    found = load_tokenizer(tmp_path, spec, "test")
    assert isinstance(found, Qwen2Tokenizer)
    assert found("he")["input_ids"] == [256]
    assert found("the<|mask|> té")["input_ids"][1:4] == [256, 260, 257]
    assert found.decode(found("the été 日本 😀")["input_ids"]) == "the été 日本 😀"


def test_the_end_of_a_turn_and_eos_both_end_a_completion(tmp_path: Path) -> None:
    policy = load("llada", tmp_path / "model")
    assert policy.family.eos_ids == (127, TURN_END_ID)
    assert policy.decode([3, TURN_END_ID, 4]) == policy.decode([3, 127, 4]) == "w3"
    assert policy.fill_canvas([3], 3) == [3, 127, 127]


REAL = {
    "llada": ({"vocab_size": 126464}, 126336, (126081,)),
    "dream": ({"vocab_size": 152064}, 151666, (151643,)),
    "a2d-qwen3": ({"vocab_size": 151936, "eos_token_id": 151645}, 151669, (151645,)),
    "sdar": ({"vocab_size": 151936}, 151669, (151643,)),
    "llada_moe": ({"vocab_size": 157184}, 156895, (156892,)),
    "llada2": ({"vocab_size": 157184, "pad_token_id": 156892}, 156895, (156892,)),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_published_ids_are_known_where_a_config_leaves_them_out(name: str) -> None:
    fields, mask, eos = REAL[name]
    config = json.loads((GOLDEN / name / "config.json").read_text())
    for left_out in ("mask_token_id", "eos_token_id", "embedding_size"):
        config.pop(left_out, None)
    family = recognise(config | fields, "test")
    assert (family.name, family.mask_token_id, family.eos_ids) == (name, mask, eos)


def test_llada_and_llada_moe_are_told_apart_though_their_model_type_is_one() -> None:
    configs = {
        name: json.loads((GOLDEN / name / "config.json").read_text())
        for name in ("llada", "llada_moe")
    }
    assert {config["model_type"] for config in configs.values()} == {"llada"}
    assert {name: find_spec(config, "test").name for name, config in configs.items()} == {
        "llada": "llada",
        "llada_moe": "llada_moe",
    }


def test_a_mask_token_that_training_code_adds_is_added_behind_the_last_token(
    tmp_path: Path,
) -> None:
    folder = checkpoint("a2d-qwen3", tmp_path / "model", mask_token_id=126)
    weights = load_file(folder / "model.safetensors")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    kept = {word: number for word, number in content["model"]["vocab"].items() if number < 126}
    content["model"]["vocab"] = kept
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < 126]
    file.write_text(json.dumps(content))
    settings = folder / "tokenizer_config.json"
    stripped = json.loads(settings.read_text())
    for field in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"):
        stripped.pop(field, None)
    settings.write_text(json.dumps(stripped))
    policy = load_policy(str(folder))
    assert len(policy.tokenizer) == 127
    assert policy.tokenizer.mask_token == "<|mask|>"
    assert policy.tokenizer.mask_token_id == 126
    assert policy.denoiser.forbidden_ids == [126, 127]
    assert len(weights["model.embed_tokens.weight"]) == 128


@pytest.mark.parametrize("spec", ORIGINALS, ids=lambda spec: spec.name)
def test_the_authors_sampler_settings_fit_together_and_the_networks_blocks(spec: Any) -> None:
    sampler = Sampler(**spec.sampler)
    assert (spec.block_length or sampler.block_length) % sampler.block_length == 0


# --- refusals -------------------------------------------------------------------------------------


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        load_policy(str(path), **options)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


FIELDS: list[tuple[str, str, Any]] = [
    ("llada", "include_bias", True),
    ("llada", "include_qkv_bias", True),
    ("llada", "bias_for_layer_norm", True),
    ("llada", "attention_layer_norm", True),
    ("llada", "scale_logits", True),
    ("llada", "input_emb_norm", True),
    ("llada", "alibi", True),
    ("llada", "block_group_size", 2),
    ("llada", "block_type", "sequential"),
    ("llada", "activation_type", "gelu"),
    ("llada", "layer_norm_type", "default"),
    ("dream", "rope_scaling", {"type": "yarn", "factor": 4.0}),
    ("dream", "use_sliding_window", True),
    ("dream", "use_mrope", True),
    ("a2d-qwen3", "rope_scaling", {"type": "linear", "factor": 2.0}),
    ("sdar", "use_sliding_window", True),
    ("llada_moe", "moe_router_enable_expert_bias", True),
    ("llada_moe", "shared_expert_intermediate_size", 64),
    ("llada_moe", "partial_rotary_factor", 0.5),
    ("llada_moe", "qk_layernorm", False),
    ("llada2", "use_qkv_bias", True),
    ("llada2", "score_function", "softmax"),
    ("llada2", "norm_head", True),
]


@pytest.mark.parametrize(("name", "field", "value"), FIELDS)
def test_what_the_network_has_no_place_for_is_refused_by_name(
    name: str, field: str, value: Any, tmp_path: Path
) -> None:
    message = refusal(checkpoint(name, tmp_path / "model", **{field: value}))
    assert f"{field}={value!r} in config.json" in message
    assert "no place for" in message


def test_an_unknown_type_lists_the_families(tmp_path: Path) -> None:
    message = refusal(checkpoint("sdar", tmp_path / "model", model_type="gpt2"))
    for spec in ORIGINALS:
        assert f"{spec.name} ({spec.model_type})" in message
    assert "llama, qwen2, qwen3" in message


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("diffusion_gemma", "random ones instead of a mask token"),
        ("DiffusionGemma", "random ones instead of a mask token"),
        ("sdar_moe", "never checked"),
        ("illada", "in no file of the checkpoint"),
        ("diffllama", "autoregressive"),
    ],
)
def test_models_that_are_not_run_are_refused_with_the_reason(
    model_type: str, words: str, tmp_path: Path
) -> None:
    message = refusal(checkpoint("sdar", tmp_path / "model", model_type=model_type))
    assert f"model_type {model_type!r}, which is not run: " in message
    assert words in message


def without_mask_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text().replace("<|mask|>", "<|musk|>")
    file.write_text(text)
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("<|mask|>", "<|musk|>"))


def short_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] = {f"w{i}": i for i in range(9)}
    content["added_tokens"] = []
    file.write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"})
    )


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def pickled(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_an_expert(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"]
    save_file(weights, file, {"format": "pt"})


def with_another_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.self_attn.rel_pos"] = torch.zeros(2)
    # Computed, not learned: some files have it all the same.
    weights["model.rotary_emb.inv_freq"] = torch.zeros(2)
    save_file(weights, file, {"format": "pt"})


def narrow_fused(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.0.attention.query_key_value.weight"
    weights[name] = weights[name][:-1].clone()
    save_file(weights, file, {"format": "pt"})


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def integers(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].to(torch.int8)
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("a2d-qwen3", without_mask_token, ["mask_token_id None", "model.mask_token_id"]),
        ("llada", short_tokenizer, ["tokenizer without mask token", "has 9 tokens", "is 125"]),
        ("llada", truncated, ["model.safetensors is cut off or damaged", "whole checkpoint"]),
        ("llada", pickled, ["has no *.safetensors, only pytorch_model.bin, a pickle"]),
        ("llada_moe", without_an_expert, ["missing keys: model.layers.1.mlp.experts.3.up_proj"]),
        ("sdar", with_another_tensor, ["unexpected keys: model.layers.0.self_attn.rel_pos;"]),
        ("llada2", narrow_fused, ["mismatched keys: model.layers.0.attention.query_key_value"]),
        ("sdar", missing_shard, ["no model-00001-of-00002.safetensors", "names"]),
        ("sdar", integers, ["model.embed_tokens.weight as I8", "before it was quantised"]),
    ],
)
def test_a_spoiled_checkpoint_is_refused_in_one_line(
    name: str, spoil: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    folder = checkpoint(name, tmp_path / "model")
    spoil(folder)
    message = refusal(folder)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "field", "words"),
    [
        ("llada", "n_layers", "has no n_layers in config.json"),
        ("sdar", "rope_theta", "has no rope_theta in config.json"),
        ("llada2", "num_experts", "has no num_experts in config.json"),
    ],
)
def test_a_missing_field_is_named(name: str, field: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(checkpoint(name, tmp_path / "model", **{field: ...}))


def test_a_field_of_another_kind_is_refused(tmp_path: Path) -> None:
    message = refusal(checkpoint("sdar", tmp_path / "model", rope_theta="big"))
    assert "field of another kind" in message
    message = refusal(checkpoint("sdar", tmp_path / "b", num_attention_heads="four"))
    assert "num_attention_heads" in message


def test_the_mask_token_can_be_named_where_nothing_tells_it(tmp_path: Path) -> None:
    folder = checkpoint("a2d-qwen3", tmp_path / "model")
    without_mask_token(folder)
    policy = load_policy(str(folder), mask_token_id=126)
    assert policy.family.mask_token_id == policy.tokenizer.mask_token_id == 126
    assert "mask_token_id 300 and vocab_size 128" in refusal(folder, mask_token_id=300)


def test_blocks_that_reach_over_the_networks_are_refused(tmp_path: Path) -> None:
    policy = load("llada2", tmp_path / "model")
    for length in (1, 2, 4, 8):
        policy.require_blocks(length)
    with pytest.raises(ValueError, match=r"block_length=16 does not divide the blocks of 8 tokens"):
        sample(policy, ["w1"], Sampler(gen_length=16, block_length=16, steps=16))
    with pytest.raises(ValueError, match=r"block_length=3 does not divide"):
        policy.require_blocks(3)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantised_weights_need_cuda(quantization: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    message = refusal(checkpoint("llada", tmp_path / "model"), quantization=quantization)
    assert message == (
        f"model.quantization={quantization} needs a CUDA device, and there is none: set it to null"
    )


def test_quantised_weights_are_trained_through_adapters_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "model.quantization=4bit", f"output_dir={tmp_path / 'run'}"])
    assert stop.value.code == 2
    assert "model.quantization=4bit without model.lora" in capsys.readouterr().err


def test_a_family_that_is_not_the_expected_one_is_refused(tmp_path: Path) -> None:
    folder = checkpoint("llada", tmp_path / "model")
    assert "model.family='dream', but" in refusal(folder, family="dream")
    assert load_policy(str(folder), family="llada").family.name == "llada"


def test_goldens_are_whole() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(NAMES)
    assert set(OPTIONS) <= set(NAMES)
    assert all("logits" in expected(name) for name in NAMES)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "llada" / "model.safetensors", tmp_path)
    assert "has no config.json" in refusal(tmp_path)
