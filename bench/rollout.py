"""Rollouts by the library's sampler against the plain published loop, on the same random model.

python bench/rollout.py         # prints seconds, tokens/s, peak memory and both ratios
"""

from __future__ import annotations

import argparse

import torch
from harness import compare, measure, report
from reference import plain_sample, random_llama

from unmask.models.denoiser import Denoiser
from unmask.sampling.sampler import sample
from unmask.sampling.settings import Sampler

BATCH, PROMPT = 16, 64


def child(args: argparse.Namespace) -> None:
    network = random_llama(args.vocabulary, args.hidden, args.layers)
    mask_id = args.vocabulary - 1
    prompt = torch.randint(mask_id, (BATCH, PROMPT), generator=torch.Generator().manual_seed(1))
    sampler = Sampler(
        gen_length=args.length, block_length=32, steps=args.length // 2, temperature=0.9
    )
    denoiser = Denoiser(network, mask_token_id=mask_id)
    seeds = torch.arange(BATCH)

    def plain() -> None:
        plain_sample(network, prompt, sampler, mask_id)

    def ours() -> None:
        sample(denoiser, prompt, None, seeds, sampler)

    report(measure(plain if args.variant == "plain" else ours, args.repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=["plain", "unmask"])
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.variant:
        return child(args)
    names = ("vocabulary", "hidden", "layers", "length", "repeats")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    compare(__file__, ["plain", "unmask"], options, rounds=args.rounds, tokens=BATCH * args.length)
    return None


if __name__ == "__main__":
    main()
