"""Accuracy and its interval: hand-computed numbers, and answers that no batch size changes."""

import math
from typing import Any

import pytest
from tiny_policies import tiny_policy

from unmask.evaluation import Measurement, at_temperature, measure, summarise, wilson
from unmask.generation import as_reply
from unmask.models.policy import Policy, Prompt
from unmask.sampling.settings import Sampler
from unmask.training.data import Example
from unmask.training.rewards import RewardTerm

SAMPLER = Sampler(gen_length=8, block_length=4, steps=4)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def examples(policy: Policy, prompts: list[Prompt]) -> list[Example]:
    return [
        Example(10 + index, prompt, policy.encode(prompt), {"level": index, "unused": None})
        for index, prompt in enumerate(prompts)
    ]


PROMPTS: list[Prompt] = ["12", "3456", "7", "99999", "1", "2468", "13"]


def length(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def has_nine(completions: list[Any], **_: Any) -> list[float]:
    return [float("9" in text) for text in completions]


def run(policy: Policy, some: list[Example], **options: Any) -> list[Measurement]:
    settings: dict[str, Any] = {
        "reward": [RewardTerm("length", length)],
        "exact": has_nine,
        "seed": 1,
        "max_tokens": 1000,
    }
    sampler = options.pop("sampler", SAMPLER)
    return measure(policy, some, sampler, **{**settings, **options})


# --- the interval -------------------------------------------------------------------------------

# z = 1.959964, z^2 = 3.841459.
# 1 of 2: centre 1/2; half-width z sqrt(1/8 + 3.841459 / 16) / (1 + 3.841459 / 2) = 0.405469.
# 0 of n: [0, z^2 / (n + z^2)]; n of n: [n / (n + z^2), 1].
# 81 of 263: a published worked example of the method, 0.2553 to 0.3662 (Newcombe 1998, table I).


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (1, 2, 0.094531, 0.905469),
        (0, 10, 0.0, 3.841459 / 13.841459),
        (10, 10, 10 / 13.841459, 1.0),
        (0, 1, 0.0, 3.841459 / 4.841459),
        (1, 1, 1 / 4.841459, 1.0),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_wilsons(successes: int, count: int, low: float, high: float) -> None:
    digits = 5e-5 if count > 20 else 1e-6
    assert wilson(successes, count) == pytest.approx((low, high), abs=digits)


@pytest.mark.parametrize("count", [1, 3, 64, 1024])
def test_the_interval_holds_the_proportion_and_stays_within_bounds(count: int) -> None:
    for successes in {0, 1, count // 2, count - 1, count}:
        low, high = wilson(successes, count)
        assert 0 <= low <= successes / count <= high <= 1
        assert low < high
        mirrored = wilson(count - successes, count)
        assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_more_problems_narrow_the_interval() -> None:
    widths = [high - low for low, high in (wilson(n / 4, n) for n in (16, 64, 256, 1024))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(2 * 1.96 * math.sqrt(0.1875 / 1024), rel=0.01)


# --- measuring ----------------------------------------------------------------------------------


def test_every_problem_gets_one_scored_answer(policy: Policy) -> None:
    problems = examples(policy, PROMPTS)
    found = run(policy, problems)
    assert [item.index for item in found] == [10, 11, 12, 13, 14, 15, 16]
    for item in found:
        assert item.reward == len(item.text)
        assert item.solved == float("9" in item.text)
    assert len({item.text for item in found}) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("max_tokens", [1, 25, 40])
def test_answers_do_not_depend_on_the_batch_size(
    policy: Policy, temperature: float, max_tokens: int
) -> None:
    problems, sampler = examples(policy, PROMPTS), at_temperature(SAMPLER, temperature)
    whole = run(policy, problems, sampler=sampler)
    assert run(policy, problems, sampler=sampler, max_tokens=max_tokens) == whole


def test_an_answer_depends_on_its_row_and_not_on_the_problems_around_it(policy: Policy) -> None:
    problems = examples(policy, PROMPTS)
    whole = run(policy, problems)
    shares = [run(policy, problems[rank::3]) for rank in range(3)]
    together = sorted((item for share in shares for item in share), key=lambda item: item.index)
    assert together == whole


def test_the_seed_decides_sampled_answers_and_not_greedy_ones(policy: Policy) -> None:
    problems = examples(policy, PROMPTS)
    assert run(policy, problems) != run(policy, problems, seed=2)
    greedy = at_temperature(SAMPLER, 0.0)
    assert greedy == Sampler(gen_length=8, block_length=4, steps=4, temperature=0.0)
    one, two = (run(policy, problems, sampler=greedy, seed=seed) for seed in (1, 2))
    assert one == two


def test_rewards_are_given_prompts_replies_tokens_and_columns(policy: Policy) -> None:
    calls: list[dict[str, Any]] = []

    def reward(**given: Any) -> list[None]:
        calls.append(given)
        return [None] * len(given["prompts"])

    messages: Prompt = [{"role": "user", "content": "34"}]
    problems = examples(policy, ["12", messages])
    found = run(policy, problems, reward=[RewardTerm("mine", reward)], exact=reward)
    assert len(calls) == 2
    for given in calls:
        assert given["prompts"] == ["12", messages]
        assert (given["level"], given["unused"]) == ([0, 1], [None, None])
        plain, reply = given["completions"]
        assert plain == found[0].text
        assert reply == [{"role": "assistant", "content": found[1].text}]
        assert [policy.decode(ids) for ids in given["completion_ids"]] == [
            item.text for item in found
        ]
    assert all(math.isnan(item.reward) and item.solved is None for item in found)


def test_without_a_verifier_nothing_counts_as_solved(policy: Policy) -> None:
    found = run(policy, examples(policy, PROMPTS[:2]), exact=None)
    assert [item.solved for item in found] == [None, None]


def test_no_problems_give_no_measurements(policy: Policy) -> None:
    assert run(policy, []) == []


def test_a_reply_has_the_form_of_its_prompt() -> None:
    assert as_reply("1+1", "2") == "2"
    reply = as_reply([{"role": "user", "content": "1+1"}], "2")
    assert reply == [{"role": "assistant", "content": "2"}]


# --- summaries ----------------------------------------------------------------------------------


def measurement(reward: float, solved: float | None) -> Measurement:
    return Measurement(0, "", reward, solved)


def test_a_summary_gives_accuracy_interval_count_and_mean_reward() -> None:
    found = [measurement(0.5, 1.0), measurement(0.25, 0.0), measurement(0.0, 0.0)]
    low, high = wilson(1, 3)
    assert summarise(found) == {
        "accuracy": pytest.approx(1 / 3),
        "low": low,
        "high": high,
        "n": 3,
        "reward": 0.25,
    }


def test_what_was_not_scored_counts_in_neither_mean() -> None:
    found = [measurement(math.nan, 1.0), measurement(3.0, None), measurement(1.0, 1.0)]
    summary = summarise(found)
    assert summary["reward"] == 2.0
    assert (summary["accuracy"], summary["n"]) == (1.0, 2)
    assert (summary["low"], summary["high"]) == wilson(2, 2)


def test_without_a_verifier_there_is_no_accuracy() -> None:
    assert summarise([measurement(1.0, None), measurement(2.0, None)]) == {
        "accuracy": None,
        "low": None,
        "high": None,
        "n": 2,
        "reward": 1.5,
    }


def test_without_any_score_there_is_no_mean_reward() -> None:
    assert summarise([measurement(math.nan, 0.0)])["reward"] is None
    assert summarise([]) == {
        "accuracy": None,
        "low": None,
        "high": None,
        "n": 0,
        "reward": None,
    }
