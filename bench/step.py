"""Likelihood and backward of one ESPO update against full logits with all draws in one graph.

python bench/step.py            # prints seconds, tokens/s, peak memory and both ratios
"""

from __future__ import annotations

import argparse

import torch
from harness import compare, measure, report
from reference import plain_logprobs, random_llama

from unmask.estimators import ELBO, DrawContext
from unmask.models.denoiser import Denoiser
from unmask.objectives import ESPO, ObjectiveInputs, Totals
from unmask.training.policy_gradient import Completions, streamed_backward

BATCH, PROMPT, LENGTH, DRAWS = 8, 64, 128, 2


def child(args: argparse.Namespace) -> None:
    network = random_llama(args.vocabulary, args.hidden, args.layers)
    mask_id = args.vocabulary - 1
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(mask_id, (BATCH, PROMPT), generator=generator)
    completion = torch.randint(mask_id, (BATCH, LENGTH), generator=generator)
    context = DrawContext(
        seeds=list(range(BATCH)),
        lengths=torch.full((BATCH,), LENGTH),
        prompt_lengths=torch.full((BATCH,), PROMPT),
        canvas=LENGTH,
        step_map=torch.zeros_like(completion),
    )
    maskings = ELBO(num_mc=DRAWS).draw(context)
    advantages = torch.randn(BATCH, generator=generator)
    objective = ESPO(beta=0.0)

    def inputs(logp: torch.Tensor) -> ObjectiveInputs:
        return ObjectiveInputs(
            logp=logp,
            old_logp=logp.detach(),
            ref_logp=None,
            weight=maskings.weight,
            views_per_draw=2,
            advantages=advantages,
            rewards=advantages,
            lengths=context.lengths,
            canvas=LENGTH,
            group_size=BATCH,
            totals=Totals(BATCH, 1, 1, 1),
        )

    def plain() -> None:
        network.zero_grad()
        objective(
            inputs(plain_logprobs(network, prompt, completion, maskings.hidden, mask_id))
        ).loss.backward()

    denoiser = Denoiser(network, mask_token_id=mask_id)
    completions = Completions(prompt, torch.ones_like(prompt), completion)
    views = {"one pass": maskings.num_views * BATCH, "streamed": BATCH}

    def ours() -> None:
        network.zero_grad()
        streamed_backward(
            denoiser,
            completions,
            maskings,
            objective,
            inputs(torch.zeros_like(maskings.weight)),
            on_policy=True,
            mask_token_id=mask_id,
            max_tokens=views[args.variant] * (PROMPT + LENGTH),
        )

    report(measure(plain if args.variant == "plain" else ours, args.repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=["plain", "one pass", "streamed"])
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.variant:
        return child(args)
    names = ("vocabulary", "hidden", "layers", "repeats")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    tokens = BATCH * DRAWS * 2 * (PROMPT + LENGTH)
    compare(__file__, ["plain", "one pass", "streamed"], options, rounds=args.rounds, tokens=tokens)
    return None


if __name__ == "__main__":
    main()
