"""The unmasking loop: against a textbook restatement, exact enumeration, and its invariances."""

import math
from collections import Counter
from typing import Any

import oracle
import pytest
import torch
from tiny_policies import tiny_policy
from torch import Tensor

from unmask.generation import generate, sample as sample_texts
from unmask.models.policy import Policy
from unmask.sampling.candidates import restrict
from unmask.sampling.noise import uniform
from unmask.sampling.rules import tokens_per_step
from unmask.sampling.sampler import Samples, sample
from unmask.sampling.settings import Sampler

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 5], [6], [12, 12, 5, 9, 8], [13, 7]]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def run(
    policy: Policy,
    prompts: list[list[int]],
    sampler: Sampler,
    *,
    extra_padding: int = 0,
    seeds: list[int] | None = None,
    **options: Any,
) -> Samples:
    ids, mask = policy.pad_prompts(prompts)
    ids = torch.nn.functional.pad(ids, (extra_padding, 0))
    mask = torch.nn.functional.pad(mask, (extra_padding, 0))
    seeds = list(range(len(prompts))) if seeds is None else seeds
    return sample(policy.denoiser, ids, mask, torch.tensor(seeds), sampler, **options)


def assert_same(one: Samples, many: Samples, row: int, index: int = 0) -> None:
    assert torch.equal(one.completion_ids[index], many.completion_ids[row])
    assert torch.equal(one.step_map[index], many.step_map[row])
    assert one.lengths[index] == many.lengths[row]
    torch.testing.assert_close(one.confidence[index], many.confidence[row], rtol=1e-4, atol=1e-5)


# --- against the textbook loop ------------------------------------------------------------------


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
@pytest.mark.parametrize(
    ("gen_length", "block_length", "steps"),
    [
        (16, 16, 16),
        (16, 16, 1),
        (16, 8, 6),  # 3, 3, 2 tokens per step
        (15, 5, 9),  # 2, 2, 1
        (14, 7, 4),  # 4, 3
        (12, 1, 12),
        (12, 4, 3),
    ],
)
def test_greedy_tokens_are_the_textbook_loops(
    policy: Policy, gen_length: int, block_length: int, steps: int, cfg_scale: float
) -> None:
    settings = {"gen_length": gen_length, "block_length": block_length, "steps": steps}
    sampler = Sampler(**settings, temperature=0.0, cfg_scale=cfg_scale)
    samples = run(policy, PROMPTS, sampler)
    for row, prompt in enumerate(PROMPTS):  # the textbook never pads
        tokens, revealed_at, probability = oracle.greedy(
            policy.denoiser.network,
            torch.tensor([prompt]),
            None,
            mask_id=policy.family.mask_token_id,
            cfg_scale=cfg_scale,
            **settings,
        )
        assert samples.completion_ids[row].tolist() == tokens[0].tolist()
        assert samples.step_map[row].tolist() == revealed_at[0].tolist()
        torch.testing.assert_close(samples.confidence[row], probability[0], rtol=1e-4, atol=1e-5)


def test_padded_prompts_of_one_batch_match_the_textbook_with_an_attention_mask(
    policy: Policy,
) -> None:
    settings = {"gen_length": 12, "block_length": 6, "steps": 8}
    ids, mask = policy.pad_prompts(PROMPTS)
    tokens, revealed_at, _ = oracle.greedy(
        policy.denoiser.network, ids, mask, mask_id=policy.family.mask_token_id, **settings
    )
    samples = run(policy, PROMPTS, Sampler(**settings, temperature=0.0))
    assert torch.equal(samples.completion_ids, tokens)
    assert torch.equal(samples.step_map, revealed_at)


def test_a_network_with_shifted_logits_is_read_one_position_earlier() -> None:
    shifted = tiny_policy(seed=3, shift=True)
    settings = {"gen_length": 10, "block_length": 5, "steps": 6}
    samples = run(shifted, PROMPTS[:2], Sampler(**settings, temperature=0.0))
    for row, prompt in enumerate(PROMPTS[:2]):
        tokens, revealed_at, _ = oracle.greedy(
            shifted.denoiser.network,
            torch.tensor([prompt]),
            None,
            mask_id=shifted.family.mask_token_id,
            shift=True,
            **settings,
        )
        assert torch.equal(samples.completion_ids[row], tokens[0])
        assert torch.equal(samples.step_map[row], revealed_at[0])


def test_guidance_changes_the_tokens_and_costs_two_passes(policy: Policy) -> None:
    plain = Sampler(gen_length=12, block_length=12, steps=6, temperature=0.0)
    guided = Sampler(gen_length=12, block_length=12, steps=6, temperature=0.0, cfg_scale=2.0)
    without, with_guidance = run(policy, PROMPTS, plain), run(policy, PROMPTS, guided)
    assert not torch.equal(without.completion_ids, with_guidance.completion_ids)
    assert without.num_forwards == 6 * len(PROMPTS)
    assert with_guidance.num_forwards == 2 * 6 * len(PROMPTS)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_the_mask_token_is_never_placed(
    policy: Policy, temperature: float, cfg_scale: float
) -> None:
    mask_id = policy.family.mask_token_id
    head = policy.denoiser.causal_lm.get_output_embeddings()
    weight = head.weight.detach().clone()
    try:
        # Whatever the hidden state, one of these two tokens leads by far; the other one trails.
        with torch.no_grad():
            head.weight[mask_id] = 1000 * weight[5]
            head.weight[5] = -1000 * weight[5]
        sampler = Sampler(
            gen_length=16, block_length=16, steps=4, temperature=temperature, cfg_scale=cfg_scale
        )
        samples = run(policy, PROMPTS, sampler)
    finally:
        with torch.no_grad():
            head.weight.copy_(weight)
    assert (samples.completion_ids != mask_id).all()
    assert (samples.completion_ids == 5).any()
    assert samples.confidence.isfinite().all()


# --- the distribution ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "steps", "settings"),
    [
        (3, 3, {"remasking": "left_to_right"}),
        (3, 3, {"remasking": "low_confidence"}),
        (3, 2, {"remasking": "low_confidence"}),
        (3, 3, {"remasking": "low_confidence", "select_first": True}),
        (3, 3, {"remasking": "low_confidence", "temperature": 0.6, "top_k": 3}),
        (3, 3, {"remasking": "low_confidence", "top_p": 0.7}),
        (3, 2, {"remasking": "random", "temperature": 1.7}),
        (2, 1, {"remasking": "low_confidence", "top_k": 2, "top_p": 0.9}),
    ],
    ids=str,
)
def test_completions_have_their_exact_probabilities(
    length: int, steps: int, settings: dict[str, Any]
) -> None:
    proposer = oracle.TableProposer(num_tokens=4, length=length, seed=length)
    sampler = Sampler(gen_length=length, block_length=length, steps=steps, **settings)

    def temper(logits: Tensor) -> Tensor:
        scaled = restrict(logits / sampler.temperature, sampler.top_k, sampler.top_p)
        return scaled.double().softmax(-1)

    expected = oracle.completion_probabilities(
        proposer,
        tokens_per_step(length, steps),
        temper,
        order=sampler.remasking,
        select_first=sampler.select_first,
    )
    assert math.fsum(expected.values()) == pytest.approx(1)
    count = 20_000
    samples = sample(proposer, torch.zeros(count, 1).long(), None, torch.arange(count), sampler)
    seen = Counter(map(tuple, samples.completion_ids.tolist()))
    assert oracle.chi_square(seen, expected) < 5


def test_confidence_is_the_untempered_probability_of_the_token_when_it_was_revealed() -> None:
    proposer = oracle.TableProposer(num_tokens=4, length=3, seed=0)
    sampler = Sampler(
        gen_length=3, block_length=3, steps=3, temperature=3.0, top_k=2, remasking="random"
    )
    samples = sample(proposer, torch.zeros(50, 1).long(), None, torch.arange(50), sampler)
    for tokens, steps, found in zip(
        samples.completion_ids.tolist(), samples.step_map.tolist(), samples.confidence, strict=True
    ):
        for position in range(3):
            before = [t if s < steps[position] else 4 for t, s in zip(tokens, steps, strict=True)]
            probs = proposer.logits_of(before)[position].softmax(-1)
            assert found[position].item() == pytest.approx(probs[tokens[position]].item(), 1e-5)


def test_the_draw_is_a_pure_function_of_the_seed(policy: Policy) -> None:
    sampler = Sampler(gen_length=16, block_length=8, steps=8)
    state = torch.get_rng_state()
    first = run(policy, PROMPTS, sampler)
    torch.manual_seed(1234)
    second = run(policy, PROMPTS, sampler)
    other = run(policy, PROMPTS, sampler, seeds=[100 + i for i in range(len(PROMPTS))])
    torch.set_rng_state(state)
    assert torch.equal(first.completion_ids, second.completion_ids)
    assert all(
        not torch.equal(first.completion_ids[row], other.completion_ids[row])
        for row in range(len(PROMPTS))
    )


def test_a_token_is_the_inverse_cdf_of_the_noise_of_its_seed_step_and_position() -> None:
    probs = [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1]]
    sampler = Sampler(gen_length=4, block_length=2, steps=4, remasking="left_to_right")
    seeds = torch.arange(40)
    prompt = torch.zeros(40, 1).long()
    samples = sample(oracle.constant_proposer(probs), prompt, None, seeds, sampler)
    for position, row in enumerate(probs):
        noise = uniform(seeds, position, torch.full((40, 1), position)).flatten()
        expected = [0 if u < row[0] else 1 if u < row[0] + row[1] else 2 for u in noise.tolist()]
        assert samples.completion_ids[:, position].tolist() == expected


def test_one_prompt_under_several_seeds_gives_several_completions(policy: Policy) -> None:
    sampler = Sampler(gen_length=16, block_length=16, steps=16)
    samples = run(policy, [PROMPTS[0]] * 8, sampler)
    assert len(set(map(tuple, samples.completion_ids.tolist()))) == 8


# --- invariances --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"remasking": "random"},
        {"remasking": "entropy", "temperature": 0.7, "top_k": 5},
        {"remasking": "margin", "top_p": 0.9},
        {"select_first": True},
        {"cfg_scale": 0.5},
        {"temperature": 0.0},
        {"temperature": 0.0, "remasking": "random"},
    ],
    ids=str,
)
def test_a_row_is_the_same_alone_in_a_batch_elsewhere_in_it_and_with_more_padding(
    policy: Policy, settings: dict[str, Any]
) -> None:
    sampler = Sampler(gen_length=12, block_length=6, steps=6, **settings)
    eos = policy.family.eos_ids
    together = run(policy, PROMPTS, sampler, eos_ids=eos)
    order = [3, 0, 4, 2, 1]
    shuffled = run(policy, [PROMPTS[i] for i in order], sampler, seeds=order, eos_ids=eos)
    padded = run(policy, PROMPTS, sampler, extra_padding=9, eos_ids=eos)
    for row, prompt in enumerate(PROMPTS):
        alone = run(policy, [prompt], sampler, seeds=[row], eos_ids=eos)
        assert_same(alone, together, row)
        assert_same(alone, shuffled, order.index(row))
        assert_same(alone, padded, row)


def test_generation_gives_the_same_completions_for_any_batch_size(policy: Policy) -> None:
    sampler = Sampler(gen_length=12, block_length=6, steps=6)
    seeds = [7, 8, 9, 10, 11]
    large = generate(policy, PROMPTS, sampler, seeds)
    for max_tokens in (1, 30, 45):
        small = generate(policy, PROMPTS, sampler, seeds, max_tokens=max_tokens)
        for row in range(len(PROMPTS)):
            assert_same(small, large, row, row)
        assert small.num_forwards == large.num_forwards


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
def test_no_pass_has_more_tokens_than_allowed(
    policy: Policy, cfg_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    states = policy.denoiser.states

    def recorded(ids: Tensor, *arguments: Tensor) -> Tensor:
        sizes.append(ids.numel())
        return states(ids, *arguments)

    monkeypatch.setattr(policy.denoiser, "states", recorded)
    sampler = Sampler(gen_length=8, block_length=8, steps=2, cfg_scale=cfg_scale)
    generate(policy, PROMPTS * 3, sampler, list(range(15)), max_tokens=64)
    assert 32 < max(sizes) <= 64


def test_the_ith_completion_depends_on_the_seed_and_i_alone(policy: Policy) -> None:
    sampler = Sampler(gen_length=8, block_length=8, steps=4)
    prompts = ["123", "4", "55555"]
    three = sample_texts(policy, prompts, sampler, seed=3)
    assert [completion.prompt for completion in three] == prompts
    two = sample_texts(policy, prompts[:2], sampler, seed=3)
    assert [completion.ids for completion in two] == [completion.ids for completion in three[:2]]
    other = sample_texts(policy, prompts, sampler, seed=4)
    assert all(a.ids != b.ids for a, b in zip(three, other, strict=True))
    same = sample_texts(policy, ["4", "4"], sampler, seed=3)
    assert same[0].ids != same[1].ids


def test_completions_come_with_their_text_tokens_steps_and_confidence(policy: Policy) -> None:
    sampler = Sampler(gen_length=8, block_length=4, steps=4)
    for completion in sample_texts(policy, ["12", "3"], sampler):
        assert completion.text == policy.decode(completion.ids)
        assert completion.tokens == policy.token_texts(completion.ids)
        assert sorted(set(completion.step_map)) in ([0, 1, 2, 3], [0, 1, 4])
        assert all(0 < value <= 1 for value in completion.confidence)


def test_no_prompts_give_no_completions(policy: Policy) -> None:
    assert sample_texts(policy, [], Sampler(gen_length=8, block_length=8, steps=8)) == []


def test_a_canvas_longer_than_the_network_is_refused_in_one_line(policy: Policy) -> None:
    sampler = Sampler(gen_length=62, block_length=62, steps=62)
    sample_texts(policy, ["12"], Sampler(gen_length=62, block_length=62, steps=1))
    with pytest.raises(ValueError, match=r"take 65 tokens, but .* 64 positions") as error:
        sample_texts(policy, ["12", "123"], sampler)
    assert "\n" not in str(error.value)
    assert "lower sampler.gen_length" in str(error.value)


def test_weights_that_are_not_finite_are_reported_in_one_line() -> None:
    broken = tiny_policy(seed=9)
    with torch.no_grad():
        broken.denoiser.causal_lm.get_output_embeddings().weight.fill_(torch.nan)
    for temperature in (0.0, 1.0):
        sampler = Sampler(gen_length=4, block_length=4, steps=4, temperature=temperature)
        with pytest.raises(ValueError, match="NaN or infinite") as error:
            run(broken, PROMPTS, sampler)
        assert "\n" not in str(error.value)
