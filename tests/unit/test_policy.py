"""Loading, adapting, saving and refusing checkpoints; prompts to tokens and back; the reference."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_policies import saved, tiny_policy
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from unmask.models.policy import Policy, load_policy, resolve_model_path
from unmask.models.reference import Reference
from unmask.models.settings import LoRA
from unmask.models.tiny import build_tokenizer

IDS = torch.tensor([[5, 6, 2, 8, 2, 10], [12, 2, 2, 9, 9, 2]])
ADAPTERS = LoRA(r=2, alpha=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("policies") / "tiny")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@torch.no_grad()
def logits(policy: Policy) -> Tensor:
    positions = torch.arange(IDS.shape[1]).expand(IDS.shape)
    return policy.denoiser.propose(IDS, None, positions)


def move(policy: Policy, seed: int = 0) -> None:
    """One optimizer step's worth of change to whatever is trainable."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


# --- saving and loading -------------------------------------------------------------------------


def test_a_saved_policy_loads_to_the_same_logits(folder: Path) -> None:
    assert torch.equal(logits(load_policy(str(folder))), logits(tiny_policy()))


def test_transformers_alone_loads_what_save_wrote(folder: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        plain = network(input_ids=IDS).logits
    ours = logits(load_policy(str(folder)))
    allowed = [token for token in range(plain.shape[-1]) if token != tokenizer.mask_token_id]
    torch.testing.assert_close(ours[..., allowed], plain[..., allowed], rtol=1e-5, atol=1e-5)
    assert tokenizer("12")["input_ids"] == load_policy(str(folder)).encode("12")
    assert not list(folder.glob("*.bin"))


def test_save_takes_the_denoisers_full_state_dict(tmp_path: Path) -> None:
    policy = tiny_policy()
    weights = {name: 1.5 * value for name, value in policy.denoiser.state_dict().items()}
    policy.save(tmp_path, weights)
    loaded = load_policy(str(tmp_path)).denoiser.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_what_the_family_needs_is_read_from_the_config(folder: Path, copy: Path) -> None:
    policy = load_policy(str(folder))
    assert (policy.family.mask_token_id, policy.family.eos_ids) == (2, (1,))
    assert not policy.family.shift
    assert policy.source == folder
    edit_json(copy / "config.json", eos_token_id=[1, 3])
    assert load_policy(str(copy)).family.eos_ids == (1, 3)


@pytest.mark.parametrize("eos", [None, [], 400, [1, -1], "1"])
def test_a_checkpoint_must_name_its_eos_tokens(copy: Path, eos: Any) -> None:
    edit_json(copy / "config.json", eos_token_id=eos)
    assert_refused(copy, f"eos_token_id {eos!r}", "ends a completion")


def test_the_mask_token_and_rows_beyond_the_tokenizer_cannot_be_placed(tmp_path: Path) -> None:
    policy = tiny_policy("123456789")
    policy.denoiser.causal_lm.resize_token_embeddings(20)
    policy.save(tmp_path)
    found = logits(load_policy(str(tmp_path)))
    assert found[0, 0].isneginf().nonzero().flatten().tolist() == [2, *range(14, 20)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_come_in_the_dtype_that_is_asked_for(folder: Path, dtype: str) -> None:
    policy = load_policy(str(folder), dtype=dtype)
    assert {p.dtype for p in policy.denoiser.parameters()} == {getattr(torch, dtype)}
    assert logits(policy).dtype == torch.float32


def test_auto_keeps_the_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.denoiser.to(torch.bfloat16)
    policy.save(tmp_path)
    parameters = load_policy(str(tmp_path)).denoiser.parameters()
    assert {p.dtype for p in parameters} == {torch.bfloat16}


def test_eager_and_sdpa_attention_agree(folder: Path) -> None:
    eager, sdpa = (load_policy(str(folder), attention=name) for name in ("eager", "sdpa"))
    torch.testing.assert_close(logits(eager), logits(sdpa), rtol=1e-4, atol=1e-5)


def test_dropout_of_a_checkpoint_is_switched_off(copy: Path) -> None:
    edit_json(copy / "config.json", attention_dropout=0.5)
    policy = load_policy(str(copy), attention="eager")
    policy.denoiser.train()
    assert torch.equal(logits(policy), logits(policy))


@pytest.mark.parametrize("lora", [None, ADAPTERS])
def test_the_sections_that_a_model_was_trained_with_travel_along(
    folder: Path, tmp_path: Path, lora: LoRA | None
) -> None:
    policy = load_policy(str(folder), lora=lora)
    assert policy.defaults == {}
    policy.defaults = {"sampler": {"gen_length": 16, "steps": 4}}
    policy.save(tmp_path)
    assert load_policy(str(tmp_path)).defaults == {"sampler": {"gen_length": 16, "steps": 4}}
    assert load_policy(str(folder)).defaults == {}


def test_a_relative_path_is_remembered_as_an_absolute_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert load_policy("tiny").source == folder
    assert resolve_model_path("tiny") == folder


# --- adapters -----------------------------------------------------------------------------------


def test_new_adapters_leave_the_policy_as_it_was_and_train_alone(folder: Path) -> None:
    policy = load_policy(str(folder), lora=ADAPTERS)
    assert policy.has_adapters
    assert not load_policy(str(folder)).has_adapters
    torch.testing.assert_close(logits(policy), logits(tiny_policy()))
    trainable = [name for name, p in policy.denoiser.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert not any("lm_head" in name for name in trainable)


def test_new_adapters_are_decided_by_their_seed(folder: Path) -> None:
    before = torch.get_rng_state()
    one, same, other = (
        load_policy(str(folder), lora=ADAPTERS, seed=seed).denoiser.state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    name = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


def test_adapters_switched_off_are_the_base(folder: Path) -> None:
    policy = load_policy(str(folder), lora=ADAPTERS)
    base = logits(policy)
    move(policy)
    assert not torch.allclose(logits(policy), base, atol=1e-2)
    with policy.without_adapters():
        assert torch.equal(logits(policy), base)
    assert not torch.allclose(logits(policy), base, atol=1e-2)


@pytest.mark.parametrize("from_state_dict", [False, True])
def test_saved_adapters_load_on_their_base(
    folder: Path, tmp_path: Path, from_state_dict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    policy = load_policy("tiny", lora=ADAPTERS)  # a relative path
    move(policy)
    policy.save(tmp_path / "out", policy.denoiser.state_dict() if from_state_dict else None)
    monkeypatch.chdir(tmp_path)
    frozen = load_policy(str(tmp_path / "out"))
    assert torch.equal(logits(frozen), logits(policy))
    assert not any(p.requires_grad for p in frozen.denoiser.parameters())
    going_on = load_policy(str(tmp_path / "out"), lora=ADAPTERS)
    assert torch.equal(logits(going_on), logits(policy))
    assert any(p.requires_grad for p in going_on.denoiser.parameters())
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=IDS).logits
    allowed = [token for token in range(plain.shape[-1]) if token != 2]
    torch.testing.assert_close(logits(policy)[..., allowed], plain[..., allowed])


def test_adapters_of_another_rank_are_not_taken_for_those_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    load_policy(str(folder), lora=ADAPTERS).save(tmp_path)
    with pytest.raises(ValueError, match=r"r=8, alpha=4, but .* have r=2, alpha=4: set these"):
        load_policy(str(tmp_path), lora=LoRA(r=8, alpha=4))


def test_dropout_of_loaded_adapters_is_switched_off(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(str(folder), lora=ADAPTERS)
    move(policy)
    policy.save(tmp_path)
    edit_json(tmp_path / "adapter_config.json", lora_dropout=0.5)
    loaded = load_policy(str(tmp_path), lora=ADAPTERS)
    loaded.denoiser.train()
    torch.testing.assert_close(logits(loaded), logits(policy))


@pytest.mark.parametrize("base", [None, "no-such-model"])
def test_adapters_without_their_base_are_refused(
    folder: Path, tmp_path: Path, base: str | None
) -> None:
    load_policy(str(folder), lora=ADAPTERS).save(tmp_path)
    edit_json(tmp_path / "adapter_config.json", base_model_name_or_path=base)
    assert_refused(tmp_path, "base_model_name_or_path None" if base is None else base)


# --- the reference ------------------------------------------------------------------------------


def test_the_reference_of_full_fine_tuning_is_a_frozen_copy_until_it_is_synchronised() -> None:
    policy = tiny_policy()
    start = logits(policy)
    reference = Reference(policy)

    def referred() -> Tensor:
        with reference.active(policy.denoiser) as module:
            positions = torch.arange(IDS.shape[1]).expand(IDS.shape)
            return module.propose(IDS, None, positions)

    assert torch.equal(referred(), start)
    move(policy)
    assert torch.equal(referred(), start)
    assert not torch.allclose(logits(policy), start, atol=1e-2)
    with reference.active(policy.denoiser) as module:
        assert not any(p.requires_grad for p in module.parameters())
    reference.sync()
    assert torch.equal(referred(), logits(policy))
    moved = referred()
    move(policy, seed=1)
    assert torch.equal(referred(), moved)


def test_a_reference_is_restored_from_its_state() -> None:
    policy = tiny_policy()
    reference = Reference(policy)
    move(policy)
    reference.sync()
    state = {name: value.clone() for name, value in reference.state().items()}
    assert state
    resumed = Reference(tiny_policy())
    resumed.load(state)
    assert all(torch.equal(resumed.state()[name], state[name]) for name in state)


def test_the_reference_under_new_adapters_is_the_base_until_it_is_synchronised(
    folder: Path,
) -> None:
    policy = load_policy(str(folder), lora=ADAPTERS)
    base = logits(policy)
    reference = Reference(policy)
    move(policy)
    with reference.active(policy.denoiser) as module:
        assert module is policy.denoiser
        assert torch.equal(logits(policy), base)
    assert not torch.allclose(logits(policy), base, atol=1e-2)
    assert reference.copy is None
    assert reference.state() == {}
    moved = logits(policy)
    reference.sync()
    move(policy, seed=1)
    now = logits(policy)
    with reference.active(policy.denoiser):
        assert torch.equal(logits(policy), moved)
    assert torch.equal(logits(policy), now)
    resumed = Reference(load_policy(str(folder), lora=ADAPTERS))
    resumed.load({name: value.clone() for name, value in reference.state().items()})
    assert resumed.state().keys() == reference.state().keys()
    assert all(
        torch.equal(resumed.state()[name], reference.state()[name]) for name in resumed.state()
    )


def test_the_reference_of_adapters_that_were_trained_before_is_where_they_began(
    folder: Path, tmp_path: Path
) -> None:
    before = load_policy(str(folder), lora=ADAPTERS)
    move(before)
    before.save(tmp_path)
    policy = load_policy(str(tmp_path), lora=ADAPTERS)
    start = logits(policy)
    reference = Reference(policy)
    move(policy, seed=1)
    with reference.active(policy.denoiser):
        assert torch.equal(logits(policy), start)


# --- refusals -----------------------------------------------------------------------------------


def assert_refused(path: Path | str, *words: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        load_policy(str(path), **options)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    for word in words:
        assert word in message


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def only_pickles(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without(name: str) -> Callable[[Path], None]:
    def drop(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return drop


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **values)


def larger_tokenizer(folder: Path) -> None:
    build_tokenizer([*"123456789abcdef"]).save_pretrained(folder)


def ordinary(folder: Path) -> None:
    """As language models are saved: causal, without a word about it."""
    file = folder / "config.json"
    content = json.loads(file.read_text())
    del content["is_causal"]
    file.write_text(json.dumps(content))


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (config(is_causal=True), ["causal llama checkpoint", "`unmask adapt"]),
        (ordinary, ["causal llama checkpoint", "`unmask adapt", '"is_causal": false']),
        (config(model_type="gpt2"), ["model_type 'gpt2'", "llama, qwen2, qwen3"]),
        (config(mask_token_id=None), ["mask_token_id None", "id of its mask token"]),
        (config(mask_token_id="<mask>"), ["mask_token_id '<mask>'", "id of its mask token"]),
        (config(mask_token_id=14), ["mask_token_id 14", "vocab_size 14"]),
        (config(mask_token_id=-1), ["mask_token_id -1"]),
        (config(num_hidden_layers=3), ["missing keys: model.layers.2.", "another architecture"]),
        (config(num_hidden_layers=1), ["unexpected keys: model.layers.1."]),
        (config(hidden_size=64), ["mismatched keys: lm_head.weight"]),
        (config(intermediate_size=32), ["mismatched keys: model.layers.0.mlp.down_proj.weight"]),
        (config(vocab_size=20), ["mismatched keys: lm_head.weight, model.embed_tokens.weight"]),
        (config(model_type="qwen3"), ["missing keys: model.layers.0.self_attn.k_norm.weight"]),
        (config(num_attention_heads="two"), ["num_attention_heads", "give a whole checkpoint"]),
        (without("model.norm.weight"), ["missing keys: model.norm.weight"]),
        (truncate, ["cannot be loaded", "give a whole checkpoint"]),
        (only_pickles, ["has no *.safetensors", "save the model in that format"]),
        (lambda folder: (folder / "config.json").unlink(), ["has no config.json", "give the"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["no valid JSON", "save"]),
        (lambda folder: (folder / "config.json").write_text("[]"), ["no JSON object", "save"]),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), ["no valid JSON", "save"]),
        (larger_tokenizer, ["14 embeddings for a tokenizer of 20 tokens", "its own tokenizer"]),
        (no_tokenizer, ["cannot be loaded", "with its tokenizer"]),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), ["cannot be loaded"]),
    ],
)
def test_a_folder_that_is_no_diffusion_checkpoint_is_refused_in_one_line(
    copy: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    spoil(copy)
    assert_refused(copy, str(copy), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"family": "llada"}, ["model.family='llada'", "family 'native'", "set model.family=auto"]),
        ({"dtype": "float13"}, ["model.dtype='float13'", "choose float32"]),
        ({"attention": "quadratic"}, ["model.attention=quadratic"]),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_in_one_line(
    folder: Path, options: dict[str, str], words: list[str]
) -> None:
    assert_refused(folder, *words, **options)


def test_an_attention_that_the_release_ignores_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transformers release that runs `is_causal = False` causally, as early 5.x did."""
    from transformers.models.llama import modeling_llama

    original = modeling_llama.LlamaModel.forward

    def causal(self: Any, *arguments: Any, **options: Any) -> Any:
        self.config.is_causal = True
        return original(self, *arguments, **options)

    monkeypatch.setattr(modeling_llama.LlamaModel, "forward", causal)
    assert_refused(folder, "runs causally", "install transformers >= 5.17")


@pytest.mark.parametrize("path", ["no-such-model", "", "./missing", "~/missing", "a/b/c", "/x"])
def test_a_path_that_is_nothing_lists_what_there_is(path: str) -> None:
    packaged = Path(__file__).parents[2] / "unmask" / "checkpoints"
    names = sorted(file.parent.name for file in packaged.glob("*/config.json"))
    assert_refused(path, f"model.path={path!r}", f"packaged model ({', '.join(names)})", "hub id")


@pytest.mark.parametrize("path", ["some-org/some-model", "some org/some model"])
def test_a_hub_id_that_cannot_be_reached_is_refused_in_one_line(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert_refused(path, f"model.path={path!r}", "the hub answered: ", "hub id")


# --- text and tokens ----------------------------------------------------------------------------


def test_plain_text_is_encoded_as_it_is_and_messages_through_the_chat_template() -> None:
    policy = tiny_policy()
    convert = policy.tokenizer.convert_ids_to_tokens
    assert convert(policy.encode("12 3")) == ["1", "2", "3"]
    assert convert(policy.encode([{"role": "user", "content": "12"}])) == ["1", "2", "<answer>"]
    messages = [{"role": "system", "content": "9"}, {"role": "user", "content": "12"}]
    assert convert(policy.encode(messages)) == ["9", "1", "2", "<answer>"]
    assert convert(policy.encode_completion("34")) == ["3", "4"]


def test_messages_need_a_chat_template() -> None:
    policy = tiny_policy()
    policy.tokenizer.chat_template = None
    assert policy.encode("1") == [5]
    with pytest.raises(ValueError, match="no chat template: give prompts as plain text"):
        policy.encode([{"role": "user", "content": "1"}])


def test_special_tokens_are_added_to_plain_text_only(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    policy = tiny_policy()
    policy.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", 0)]
    )
    assert policy.encode("12") == [0, 5, 6]
    assert policy.encode([{"role": "user", "content": "12"}]) == [5, 6, 4]
    assert policy.encode_completion("12") == [5, 6]


def test_decoding_stops_at_the_first_eos_and_drops_special_tokens() -> None:
    policy = tiny_policy()
    assert policy.decode([5, 6, 1, 7, 1]).replace(" ", "") == "12"
    assert policy.decode([1, 5]) == ""
    assert policy.decode([5, 4, 0, 6]).replace(" ", "") == "12"
    assert policy.decode([]) == ""


def test_every_token_has_a_text_of_its_own() -> None:
    assert tiny_policy().token_texts([5, 1, 2, 13]) == ["1", "<eos>", "<mask>", "9"]


def test_prompts_are_padded_on_the_left() -> None:
    ids, mask = tiny_policy().pad_prompts([[5, 6, 7], [8], []])
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64


def test_a_tokenizer_without_a_pad_token_pads_with_masked_tokens() -> None:
    policy = tiny_policy()
    policy.tokenizer.pad_token = None
    ids, mask = policy.pad_prompts([[5, 6], [7]])
    assert mask.tolist() == [[1, 1], [0, 1]]
    assert ids[mask.bool()].tolist() == [5, 6, 7]
