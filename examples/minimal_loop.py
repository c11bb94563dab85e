"""ESPO in one page: the whole method on the library's own pieces, without the trainer around it.

    python examples/minimal_loop.py --rounds 30

Left out on purpose: checkpoints, several processes, logging, evaluation on held-out problems.
"""

import argparse
from dataclasses import replace

import torch

from unmask.advantages import leave_one_out
from unmask.generation import generate
from unmask.maskings import derive_seed, draw_elbo, make_generators
from unmask.models.policy import load_policy
from unmask.models.reference import Reference
from unmask.objectives import ESPO, ObjectiveInputs, Totals
from unmask.sampling.settings import Sampler
from unmask.tasks import get_task
from unmask.training.policy_gradient import Completions, evaluate_logprobs, streamed_backward

PROMPTS, GROUP, UPDATES, SEED = 16, 8, 2, 42


def main(rounds: int) -> None:
    policy = load_policy("tiny-sudoku", device="cpu")
    task = get_task("sudoku")
    sampler = Sampler(gen_length=16, block_length=16, steps=16)
    objective = ESPO(beta=3e-3)
    reference = Reference(policy)
    optimizer = torch.optim.AdamW(policy.denoiser.parameters(), lr=2e-4, betas=(0.9, 0.99))
    puzzles = task.build("train", size=rounds * PROMPTS, seed=SEED)
    passes = {"mask_token_id": policy.family.mask_token_id, "max_tokens": 16384}

    for round_ in range(rounds):
        # 1. Roll out: a group of completions for every prompt, by iterative unmasking.
        rows = puzzles.select(range(round_ * PROMPTS, (round_ + 1) * PROMPTS))
        rows = [row for row in rows for _ in range(GROUP)]
        prompts = [policy.encode(row["prompt"]) for row in rows]
        seeds = [derive_seed("rollout", SEED, round_, i) for i in range(len(rows))]
        samples = generate(policy, prompts, sampler, seeds)

        # 2. Score them, and compare each with the others of its group.
        texts = [policy.decode(ids) for ids in samples.completion_ids.tolist()]
        columns = {name: [row[name] for row in rows] for name in ("puzzle", "solution")}
        rewards = torch.tensor(task.reward(None, texts, **columns))
        advantages = leave_one_out(rewards, GROUP)

        # 3. Estimate likelihoods on the same maskings under all policies.
        completions = Completions(*policy.pad_prompts(prompts), samples.completion_ids)
        maskings = [
            draw_elbo(
                make_generators([derive_seed("masking", seed, update) for seed in seeds]),
                sampler.gen_length,
                num_mc=1,
                coupled=True,
            )
            for update in range(UPDATES)
        ]
        old = [evaluate_logprobs(policy.denoiser, completions, m, **passes) for m in maskings]
        with reference.active(policy.denoiser) as model:
            ref = [evaluate_logprobs(model, completions, m, **passes) for m in maskings]

        # 4. Step on the sequence-level objective; its exact gradient, one slice at a time.
        inputs = ObjectiveInputs(
            logp=old[0],
            old_logp=old[0],
            ref_logp=ref[0],
            weight=maskings[0].weight,
            views_per_draw=2,
            advantages=advantages,
            rewards=rewards,
            lengths=samples.lengths,
            canvas=sampler.gen_length,
            group_size=GROUP,
            totals=Totals(
                sequences=len(rows),
                scored_tokens=int(maskings[0].scored.sum()),
                lengths=int(samples.lengths.sum()),
                nonzero_advantages=int((advantages != 0).sum()),
            ),
        )
        for update in range(UPDATES):
            optimizer.zero_grad()
            streamed_backward(
                policy.denoiser,
                completions,
                maskings[update],
                objective,
                replace(
                    inputs,
                    weight=maskings[update].weight,
                    old_logp=old[update],
                    ref_logp=ref[update],
                ),
                on_policy=update == 0,
                **passes,
            )
            torch.nn.utils.clip_grad_norm_(policy.denoiser.parameters(), 0.2)
            optimizer.step()
        print(f"round {round_ + 1}: reward {rewards.mean():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    main(parser.parse_args().rounds)
