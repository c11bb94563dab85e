"""Rollouts against a plain restatement of LLaDA's published loop, on the same random model.

python bench/rollout.py              # every ratio below; --quick for seconds
python bench/rollout.py --trained    # trained models alone; --model PATH,PATH for others
python bench/rollout.py --mismatch   # speed, mismatch and accuracy of each mode on tiny models

The plain loop asks for the logits of all positions, draws float64 noise for them and always writes
the whole canvas. Its steps cost the same, so it is stopped after a few and scaled up; the exact
mode is timed over one whole block, by letting every token close a sequence. The same network with
block-causal attention is timed with and without its exact cache, and the prompts that go into the
cache with and without their groups sharing them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from harness import compare, measure, parser, print_table, report, run_variants, shared
from reference import plain_sample, random_llama

from unmask.models.denoiser import Denoiser
from unmask.sampling.sampler import Samples, sample
from unmask.sampling.settings import Sampler

REAL_VOCABULARY = 126_464
NUM_BLOCKS = 4
RANDOM = ["equal plain", "equal exact", "equal compiled", "equal prefix", "equal dual"]
MIXED = ["mixed plain", "mixed exact", "mixed compiled"]
BLOCKS = ["blocks none", "blocks dual"]
PREFILL = ["blocks apart", "blocks together"]


def child(args: argparse.Namespace) -> None:
    """Measure one variant."""
    kind, _, detail = args.variant.partition(" ")
    torch.set_grad_enabled(False)
    if kind == "tiny":
        from tiny_models import measure_mode

        report(measure_mode(args, detail))
        return
    network = random_llama(args.vocabulary, args.hidden, args.layers).to(args.device)
    mask_id, device = args.vocabulary - 1, torch.device(args.device)
    prompt, mask = prompts(args, mixed=kind == "mixed")
    sampler = Sampler(
        gen_length=args.length,
        block_length=args.length // NUM_BLOCKS,
        steps=args.length // 2,
        temperature=0.9,
    )
    block = args.length // NUM_BLOCKS if kind == "blocks" else None
    denoiser: Any = Denoiser(
        network, mask_token_id=mask_id, block_length=block, compiled=detail == "compiled"
    )
    every_token = list(range(args.vocabulary))

    def plain(steps: int) -> None:
        plain_sample(network, prompt, sampler, mask_id, max_steps=steps)

    def ours(settings: Sampler, eos_ids: Any = ()) -> Samples:
        seeds = torch.arange(len(prompt), device=device)
        return sample(denoiser, prompt, mask, seeds, settings, eos_ids=eos_ids)

    def prefill() -> None:
        cache, ids = denoiser.new_cache(), prompt.clone()
        if detail == "apart":
            ids[:, 0] = torch.arange(len(ids))
        cache.realign(torch.arange(0, device=device), 0, len(ids))
        new = torch.ones(len(ids), dtype=torch.bool, device=device)
        denoiser.prefill(ids, None, new, ids.shape[1], cache)

    if detail in ("apart", "together"):
        result = measure(prefill, args.repeats, device)
    elif detail == "plain":
        steps = args.plain_steps
        result = measure(lambda: plain(steps), args.repeats, device, warm_up=lambda: plain(1))
        result["seconds"] *= sampler.steps / steps
    elif detail in ("exact", "compiled"):
        # Every token is an EOS, so that each sequence is denoised for its first block alone.
        if detail == "compiled":
            ours(sampler, every_token)
        clock = Clock(denoiser)
        result = measure(lambda: ours(sampler, every_token), args.repeats, device, clock.restart)
        result["outside"] = 1 - clock.seconds / (result["seconds"] * args.repeats)
        result["seconds"] *= NUM_BLOCKS
    elif detail == "stop":
        eos = every_token[:: args.eos_every]
        needed = ours(sampler, eos).num_forwards / (len(prompt) * sampler.steps)
        result = measure(lambda: ours(sampler, eos), args.repeats, device, lambda: None)
        result["needed"] = needed
    else:
        cached: Any = replace(sampler, cache=detail)
        result = measure(lambda: ours(cached), args.repeats, device, lambda: None)
    report(result)


class Clock:
    """Seconds in the network and the vocabulary projection."""

    def __init__(self, denoiser: Any) -> None:
        self.seconds = 0.0
        for name in ("states", "logits"):
            setattr(denoiser, name, self._timed(getattr(denoiser, name)))

    def restart(self) -> None:
        """Begin at 0."""
        self.seconds = 0.0

    def _timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = work(*args, **kwargs)
            if result.is_cuda:
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - began
            return result

        return timed


def prompts(args: argparse.Namespace, mixed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Two prompts in `--group` rows each: of equal length, or of a quarter and 7 quarters of it."""
    lengths = [args.prompt // 4, 7 * args.prompt // 4] if mixed else [args.prompt] * 2
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(args.vocabulary - 1, (2, max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    rows = torch.arange(2).repeat_interleave(args.group)
    return ids[rows].to(args.device), mask[rows].to(args.device)


def random_model(args: argparse.Namespace) -> None:
    """The tables of the random model."""
    base = shared(args, "prompt", "length", "group", "plain_steps", "eos_every")
    names = [*RANDOM, *MIXED, "equal stop", *BLOCKS, *PREFILL]
    found = run_variants(__file__, [base | {"variant": name} for name in names], rounds=args.rounds)
    rows = dict(zip(names, found, strict=True))
    compare("equal prompt lengths", RANDOM, [rows[name] for name in RANDOM])
    compare("mixed prompt lengths", MIXED, [rows[name] for name in MIXED])
    title = f"block-causal in blocks of {args.length // NUM_BLOCKS}: cache"
    compare(title, BLOCKS, [rows[name] for name in BLOCKS])
    title = f"block-causal: prompts into the cache, {args.group} completions of each"
    compare(title, PREFILL, [rows[name] for name in PREFILL])
    exact, needed = rows["equal exact"], rows["equal stop"]["needed"]
    share = rows["equal stop"]["seconds"] / exact["seconds"]
    print_table(
        "early stop",
        ("time / time without", "needed row-blocks / all", "first / second"),
        [(f"{share:.3f}", f"{needed:.3f}", f"{share / needed:.2f}")],
    )
    print_table("exact mode", ("time outside the model",), [(f"{exact['outside']:.1%}",)])
    small = {"hidden": 64, "layers": 1, "length": args.memory_length, "plain_steps": 1}
    memory = base | small | {"vocabulary": args.memory_vocabulary}
    pair = [memory | {"variant": name} for name in RANDOM[:2]]
    plain, ours = (row["peak_mib"] for row in run_variants(__file__, pair, rounds=1, steady=True))
    print_table(
        f"memory beyond the weights, vocabulary {args.memory_vocabulary}",
        ("plain MiB", "exact MiB", "plain / exact"),
        [(f"{plain:.0f}", f"{ours:.0f}", f"{plain / ours:.1f}")],
    )


def trained_models(args: argparse.Namespace, modes: list[str]) -> None:
    """Speed, accuracy and, where asked for, mismatch of each mode on trained tiny models."""
    for model in args.model.split(","):
        base = shared(args, "problems", "threshold", "mismatch") | {"model": model}
        variants = [base | {"variant": f"tiny {mode}"} for mode in modes]
        found = run_variants(__file__, variants, rounds=args.rounds)
        measured = ["kl_step", "kl_token", "ess_step", "ess_token", "weight_ess"] * args.mismatch
        rows = []
        for mode, row in zip(modes, found, strict=True):
            speed = found[0]["seconds"] / row["seconds"]
            cells = [mode, f"{row['seconds']:.2f}", f"{speed:.2f}x", f"{row['passes']:.1f}"]
            rows.append(
                [*cells, f"{row['accuracy']:.1%}", *(f"{row[key]:.4f}" for key in measured)]
            )
        columns = ["mode", "seconds", "speed", "passes", "solved", *measured]
        print_table(f"{model}, n = {args.problems}, threshold {args.threshold}", columns, rows)


def main() -> None:
    options = parser(__doc__, vocabulary=2048, hidden=256, layers=8)
    options.add_argument("--prompt", type=int, default=64)
    options.add_argument("--length", type=int, default=128)
    options.add_argument("--group", type=int, default=8, help="rows per prompt, of which are two")
    options.add_argument("--plain-steps", type=int, default=8, help="timed steps of the plain loop")
    options.add_argument("--eos-every", type=int, default=100, help="every n-th token is an EOS")
    options.add_argument("--memory-vocabulary", type=int, default=REAL_VOCABULARY)
    options.add_argument("--memory-length", type=int, default=32)
    options.add_argument("--model", default="tiny-sudoku,tiny-countdown", help="trained models")
    options.add_argument("--problems", type=int, default=256)
    options.add_argument("--threshold", type=float, default=0.9, help="of the parallel modes")
    options.add_argument("--mismatch", action="store_true")
    options.add_argument("--trained", action="store_true", help="the trained models alone")
    options.add_argument("--quick", action="store_true")
    args = options.parse_args()
    if args.variant:
        return child(args)
    if args.quick:
        quick = {"hidden": 64, "layers": 2, "length": 32, "prompt": 16, "problems": 32}
        quick |= {"memory_length": 8, "memory_vocabulary": 32_768, "model": "tiny-sudoku"}
        vars(args).update(quick)
    if args.mismatch:
        return trained_models(args, ["exact", "prefix", "dual", "threshold", "dual+threshold"])
    if not args.trained:
        random_model(args)
    return trained_models(args, ["plain", "exact", "threshold"])


if __name__ == "__main__":
    main()
