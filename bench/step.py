"""Likelihood and backward of one ESPO update against cross-entropy on the logits of all positions.

python bench/step.py            # equal and mixed prompt lengths, blocks, memory; --quick: seconds

The plain way takes the logits of prompt and completion for all draws in one graph, with every
prompt padded to the longest. On a block-causal network, a row per view is compared with a pass in
which the group's prompt and each completion's clean blocks run once.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from harness import compare, measure, parser, report, run_variants, shared
from reference import OneRowPerView, random_llama
from torch.nn.functional import cross_entropy

from unmask.estimators import ELBO, DrawContext
from unmask.models.denoiser import Denoiser
from unmask.objectives import ESPO, ObjectiveInputs, Totals
from unmask.training.policy_gradient import Completions, streamed_backward

VARIANTS = ["plain", "one pass", "streamed", "streamed, compiled"]
BLOCKS = ["row per view", "shared", "shared, streamed"]


def child(args: argparse.Namespace) -> None:
    """Measure one variant."""
    lengths, variant = args.variant.split(" ", 1)
    device = torch.device(args.device)
    network = random_llama(args.vocabulary, args.hidden, args.layers).to(device)
    mask_id, batch = args.vocabulary - 1, args.batch
    sizes = torch.full((batch,), args.prompt)
    if lengths == "mixed":
        # Half the prompts have a quarter of the length, the others 7 quarters.
        sizes[: batch // 2], sizes[batch // 2 :] = args.prompt // 4, 7 * args.prompt // 4
    generator = torch.Generator().manual_seed(1)
    width = int(sizes.max())
    prompt = torch.randint(mask_id, (batch, width), generator=generator).to(device)
    if lengths == "blocks":
        prompt = prompt[:1].expand(batch, -1).contiguous()
    mask = (torch.arange(width) >= width - sizes[:, None]).long().to(device)
    completion = torch.randint(mask_id, (batch, args.length), generator=generator).to(device)
    context = DrawContext(
        seeds=list(range(batch)),
        lengths=torch.full((batch,), args.length),
        prompt_lengths=sizes,
        canvas=args.length,
        step_map=torch.zeros(batch, args.length, dtype=torch.int64),
    )
    maskings = ELBO(num_mc=args.draws).draw(context).to(device)
    advantages = torch.randn(batch, generator=generator).to(device)
    objective = ESPO(beta=0.0)

    def inputs(logp: torch.Tensor) -> ObjectiveInputs:
        return ObjectiveInputs(
            logp=logp,
            old_logp=logp.detach(),
            ref_logp=None,
            weight=maskings.weight,
            views_per_draw=maskings.views_per_draw,
            advantages=advantages,
            rewards=advantages,
            lengths=context.lengths.to(device),
            canvas=args.length,
            group_size=batch,
            totals=Totals(batch, 1, 1, 1),
        )

    def plain() -> None:
        network.zero_grad(set_to_none=False)
        views = maskings.num_views
        noisy = completion.unsqueeze(1).masked_fill(maskings.hidden, mask_id)
        whole = torch.cat([prompt.unsqueeze(1).expand(-1, views, -1), noisy], dim=-1)
        targets = torch.cat([prompt, completion], dim=1).repeat_interleave(views, dim=0)
        attention: Any = torch.cat([mask, torch.ones_like(completion)], dim=1)
        attention = None if bool(mask.all()) else attention.repeat_interleave(views, dim=0)
        ids = whole.flatten(0, 1)
        logits = network(input_ids=ids, attention_mask=attention, use_cache=False).logits.float()
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        logp = -loss.view(batch, views, -1)[..., -args.length :]
        objective(inputs(logp)).loss.backward()

    block_length = args.block if lengths == "blocks" else None
    kind = OneRowPerView if variant == "row per view" else Denoiser
    denoiser = kind(
        network,
        mask_token_id=mask_id,
        block_length=block_length,
        compiled=variant.endswith("compiled"),
    )
    rows = batch * (1 if "streamed" in variant else maskings.num_views)

    def ours() -> None:
        network.zero_grad(set_to_none=False)
        streamed_backward(
            denoiser,
            Completions(prompt, mask, completion),
            maskings,
            objective,
            inputs(torch.zeros_like(maskings.weight)),
            on_policy=True,
            mask_token_id=mask_id,
            max_tokens=rows * (args.prompt + args.length),
        )

    report(measure(plain if variant == "plain" else ours, args.repeats, device))


def main() -> None:
    options = parser(__doc__, vocabulary=2048, hidden=256, layers=8)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--prompt", type=int, default=64)
    options.add_argument("--length", type=int, default=128)
    options.add_argument("--draws", type=int, default=2, help="coupled pairs of views")
    options.add_argument("--block", type=int, default=32, help="of the block-causal network")
    options.add_argument("--memory-vocabulary", type=int, default=32_768)
    options.add_argument("--quick", action="store_true")
    args = options.parse_args()
    if args.variant:
        return child(args)
    if args.quick:
        vars(args).update(hidden=64, layers=2, length=32, prompt=16, memory_vocabulary=8192)
    base = shared(args, "batch", "prompt", "length", "draws", "block")
    titles = {"equal": "equal prompt lengths", "mixed": "mixed prompt lengths"}
    titles["blocks"] = f"blocks of {args.block}, {args.batch} completions of one prompt"
    for lengths, title in titles.items():
        names = BLOCKS if lengths == "blocks" else VARIANTS
        variants = [base | {"variant": f"{lengths} {name}"} for name in names]
        found = run_variants(__file__, variants, rounds=args.rounds)
        compare(title, names, found)
    # So thin a network that logits make up the memory.
    thin = base | {"hidden": 32, "layers": 1, "vocabulary": args.memory_vocabulary}
    names = VARIANTS[:3]
    variants = [thin | {"variant": f"equal {name}"} for name in names]
    found = run_variants(__file__, variants, rounds=1, steady=True)
    compare(f"memory, vocabulary {args.memory_vocabulary}", names, found)
    return None


if __name__ == "__main__":
    main()
