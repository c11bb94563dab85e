"""Peak memory and time of an update against the number of views M, for every objective.

python bench/memory.py                  # memory at M = 1 to 32, and time against one graph
python bench/memory.py --device cuda    # the same with torch's own count of GPU memory

Each figure is the median of fresh processes. Memory is what an update adds to a process that
holds the weights: on a CPU the growth of its peak resident set, on a GPU torch's peak. Time is
that of the streamed gradient over that of one graph that holds all views, at `--compare-views`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

import torch
from harness import measure, report
from reference import random_llama
from rich.console import Console
from rich.table import Table

from unmask.maskings import Maskings
from unmask.models.denoiser import Denoiser
from unmask.objectives import OBJECTIVES, ObjectiveInputs, Totals
from unmask.training.policy_gradient import Completions, evaluate_logprobs, streamed_backward

BATCH, PROMPT, LENGTH = 8, 32, 96
VIEWS = (1, 2, 4, 8, 16, 32)
# glibc keeps freed memory in a pool per thread, by chance more or less of it.
STEADY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}


def child(args: argparse.Namespace) -> None:
    """Measure updates of one objective at one M."""
    device = torch.device(args.device)
    network = random_llama(args.vocabulary, args.hidden, args.layers).to(device)
    denoiser = Denoiser(network, mask_token_id=args.vocabulary - 1)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(args.vocabulary - 1, (BATCH, PROMPT), generator=generator)
    completion = torch.randint(args.vocabulary - 1, (BATCH, LENGTH), generator=generator)
    completions = Completions(
        prompt.to(device), torch.ones_like(prompt).to(device), completion.to(device)
    )
    maskings = half_views(args.views, generator).to(device)
    objective = OBJECTIVES[args.objective]()
    everything = args.variant == "one graph"
    passes = {
        "mask_token_id": args.vocabulary - 1,
        "max_tokens": (PROMPT + LENGTH) * BATCH * (args.views if everything else 1),
    }
    # The policy has moved a little since the rollout, so that nothing is clipped or zero.
    logp = evaluate_logprobs(denoiser, completions, maskings, **passes)
    rewards = torch.randn(BATCH, generator=generator).to(device)
    inputs = ObjectiveInputs(
        logp=logp,
        old_logp=logp + 1e-4 * maskings.scored,
        ref_logp=logp + 1e-3 * maskings.scored,
        weight=maskings.weight,
        views_per_draw=maskings.views_per_draw,
        advantages=rewards - rewards.mean(),
        rewards=rewards,
        lengths=torch.full((BATCH,), LENGTH, device=device),
        canvas=LENGTH,
        group_size=BATCH,
        totals=Totals(BATCH, float(maskings.scored.sum()), BATCH * LENGTH, BATCH),
    )

    def update() -> None:
        # Gradients stay allocated, as they are in every pass but the first of a step.
        network.zero_grad(set_to_none=False)
        streamed_backward(
            denoiser,
            completions,
            maskings,
            objective,
            inputs,
            on_policy=args.on_policy,
            **passes,
        )

    report(measure(update, args.repeats, device))


def half_views(views: int, generator: torch.Generator) -> Maskings:
    """Views that each hide half the completion, so that only M changes; pairs where M is even."""
    order = torch.rand(BATCH, views, LENGTH, generator=generator).argsort(-1)
    hidden = order < LENGTH // 2
    if views % 2 == 0:
        hidden[:, 1::2] = ~hidden[:, ::2]
    return Maskings(hidden, hidden.float(), views_per_draw=1 + (views % 2 == 0))


def run(args: argparse.Namespace, **settings: object) -> dict[str, float]:
    """Medians over fresh processes of one objective at one M."""
    names = ("device", "vocabulary", "hidden", "layers", "repeats")
    options = {name: getattr(args, name) for name in names} | settings
    flags = ["--on-policy"] if options.pop("on_policy", False) else []
    command = [sys.executable, __file__, *flags]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    found = []
    for _ in range(args.rounds):
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **STEADY}
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(item[key] for item in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", choices=OBJECTIVES, help="one objective; else all of them")
    parser.add_argument("--variant", choices=["streamed", "one graph"])
    parser.add_argument("--views", type=int, choices=VIEWS)
    parser.add_argument("--compare-views", type=int, default=4)
    parser.add_argument("--on-policy", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.variant:
        return child(args)
    names = [args.objective] if args.objective else list(OBJECTIVES)
    columns = [f"M={views}" for views in VIEWS]
    memory = Table("peak MiB", *columns, "last / first")
    seconds = Table(f"seconds at M={args.compare_views}", "streamed / one graph", "first update")
    for name in names:
        views = VIEWS[1:] if name == "gdsd" else VIEWS  # takes pairs only
        peaks = [
            run(args, objective=name, variant="streamed", views=count)["peak_mib"]
            for count in views
        ]
        shown = [f"{peak:.1f}" for peak in peaks]
        memory.add_row(
            name, *[""] * (len(VIEWS) - len(views)), *shown, f"{peaks[-1] / peaks[0]:.3f}"
        )
        ratios = [time_ratio(args, name, on_policy) for on_policy in (False, True)]
        seconds.add_row(name, *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(memory)
    Console().print(seconds)
    return None


def time_ratio(args: argparse.Namespace, name: str, on_policy: bool) -> float:
    """Seconds of the streamed update over those of one graph, alternating."""
    ratios = []
    once = argparse.Namespace(**{**vars(args), "rounds": 1})
    for _ in range(args.rounds):
        pair = [
            run(
                once,
                objective=name,
                variant=variant,
                views=args.compare_views,
                on_policy=on_policy,
            )["seconds"]
            for variant in ("streamed", "one graph")
        ]
        ratios.append(pair[0] / pair[1])
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
