"""Peak memory and time of an update against the number of views M, for every objective.

python bench/memory.py                  # memory at M = 1 to 32, and time against one graph
python bench/memory.py --device cuda    # the same with torch's own count of GPU memory

Each figure is of fresh processes, the median of `--rounds`. Memory is what an update adds to a
process that holds the weights: on a CPU the growth of its peak resident set, on a GPU torch's peak.
Time is that of the streamed gradient over that of one graph that holds all views, at
`--compare-views` (more than fit in a pass of the streamed one): the two take turns, and the median
of `--repeats` ratios counts.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch
from harness import measure, parser, print_table, report, run_variants, seconds_of, shared
from reference import random_llama

from unmask.maskings import Maskings
from unmask.models.denoiser import Denoiser
from unmask.objectives import OBJECTIVES, ObjectiveInputs, Totals
from unmask.training.policy_gradient import Completions, evaluate_logprobs, streamed_backward

BATCH, PROMPT, LENGTH = 8, 32, 96
VIEWS = (1, 2, 4, 8, 16, 32)


def child(args: argparse.Namespace) -> None:
    """Measure updates of one objective at one M: memory, or time against one graph."""
    device = torch.device(args.device)
    network = random_llama(args.vocabulary, args.hidden, args.layers).to(device)
    denoiser = Denoiser(network, mask_token_id=args.vocabulary - 1)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(args.vocabulary - 1, (BATCH, PROMPT), generator=generator)
    completion = torch.randint(args.vocabulary - 1, (BATCH, LENGTH), generator=generator)
    completions = Completions(
        prompt.to(device), torch.ones_like(prompt).to(device), completion.to(device)
    )
    # A*-PO splits single draws in two, all others take pairs.
    paired = args.views % 2 == 0 and args.objective != "astar_po"
    maskings = half_views(args.views, generator, paired).to(device)
    objective = OBJECTIVES[args.objective]()
    row_tokens = (PROMPT + LENGTH) * BATCH
    passes = {"mask_token_id": args.vocabulary - 1, "max_tokens": row_tokens}
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
        # Of pairs, the first is the chosen one.
        group_size=2 if args.objective == "vrpo" else BATCH,
        totals=Totals(BATCH, float(maskings.scored.sum()), BATCH * LENGTH, BATCH),
        values=torch.zeros(BATCH, device=device),
    )

    def update(rows_per_sequence: int, on_policy: bool) -> None:
        # Gradients stay allocated, as they are in every pass but the first of a step.
        network.zero_grad(set_to_none=False)
        streamed_backward(
            denoiser,
            completions,
            maskings,
            objective,
            inputs,
            on_policy=on_policy,
            mask_token_id=args.vocabulary - 1,
            max_tokens=row_tokens * rows_per_sequence,
        )

    if args.variant == "memory":
        return report(measure(lambda: update(1, on_policy=False), 1, device))
    ratios = {}
    for name, on_policy in (("later", False), ("first", True)):
        streamed, one_graph = (partial(update, rows, on_policy) for rows in (1, args.views))
        streamed()
        one_graph()
        ratios[name] = statistics.median(
            seconds_of(streamed, device) / seconds_of(one_graph, device)
            for _ in range(args.repeats)
        )
    return report(ratios)


def half_views(views: int, generator: torch.Generator, paired: bool) -> Maskings:
    """Views that each hide half the completion, so that only M changes; coupled where `paired`."""
    order = torch.rand(BATCH, views, LENGTH, generator=generator).argsort(-1)
    hidden = order < LENGTH // 2
    if paired:
        hidden[:, 1::2] = ~hidden[:, ::2]
    return Maskings(hidden, hidden.float(), views_per_draw=1 + paired)


def main() -> None:
    options = parser(__doc__, vocabulary=2048, hidden=128, layers=4)
    options.set_defaults(repeats=3)
    options.add_argument("--objective", choices=OBJECTIVES, help="one objective; else all of them")
    options.add_argument("--views", type=int, choices=VIEWS)
    options.add_argument("--compare-views", type=int, default=16)
    args = options.parse_args()
    if args.variant:
        return child(args)
    memory, times = [], []
    for name in [args.objective] if args.objective else OBJECTIVES:
        base = shared(args) | {"objective": name}
        views = VIEWS[1:] if name in ("gdsd", "astar_po") else VIEWS  # take two at least
        variants = [base | {"variant": "memory", "views": count} for count in views]
        found = run_variants(__file__, variants, rounds=args.rounds, steady=True)
        time = base | {"variant": "time", "views": args.compare_views}
        (ratios,) = run_variants(__file__, [time], rounds=args.rounds)
        peaks = [row["peak_mib"] for row in found]
        blanks = [""] * (len(VIEWS) - len(views))
        growth = f"{peaks[-1] / peaks[0]:.3f}"
        memory.append((name, *blanks, *(f"{peak:.1f}" for peak in peaks), growth))
        times.append((name, f"{ratios['later']:.2f}", f"{ratios['first']:.2f}"))
        print(*memory[-1], *times[-1][1:], flush=True)  # the whole table takes long
    columns = ("objective", *(f"M={views}" for views in VIEWS), "last / first")
    print_table("peak MiB", columns, memory)
    title = f"seconds at M={args.compare_views}, streamed / one graph"
    print_table(title, ("objective", "later updates", "first update"), times)


if __name__ == "__main__":
    main()
