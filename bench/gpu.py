"""An 8B LLaDA-shaped random model in bf16: rollouts, a LoRA step, memory, the top kernels.

python bench/gpu.py                                            # needs one CUDA device, 80 GB
python bench/gpu.py --device cpu --dtype float32 --hidden 64 --layers 2 --vocabulary 512 \
    --prompt 16 --length 16 --batches 1,2 --group 2            # a smoke test anywhere

Model FLOPs are 2 per weight and token of the network, 2 per weight of the head and position whose
logits are taken, and 4 H per layer, token and key of the attention.
The matrix rate is measured on the same device, in the same dtype.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from harness import parser, print_table
from reference import plain_sample
from transformers import LlamaConfig, LlamaForCausalLM

from unmask.estimators import ELBO, DrawContext
from unmask.models.denoiser import Denoiser
from unmask.objectives import ESPO, ObjectiveInputs, Totals
from unmask.sampling.sampler import sample
from unmask.sampling.settings import Sampler
from unmask.training.policy_gradient import Completions, streamed_backward


def build(args: argparse.Namespace) -> Denoiser:
    """LLaDA-8B's shape at the default sizes (GSAI-ML/LLaDA-8B-Base), random weights."""
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=max(args.hidden // 128, 1),
        num_key_value_heads=max(args.hidden // 128, 1),
        max_position_embeddings=4096,
        attn_implementation="sdpa",
    )
    config.is_causal = False
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, args.dtype))
    try:
        with torch.device(args.device):
            network = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    return Denoiser(network, mask_token_id=args.vocabulary - 1, compiled=args.compile)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds after a warm-up, and the peak memory in GiB (0 on a CPU)."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return time.perf_counter() - began, peak


def matrix_rate(args: argparse.Namespace) -> float:
    """FLOP/s of a large matrix product on the device."""
    size = 8192 if args.device == "cuda" else 512
    a = torch.randn(size, size, device=args.device, dtype=getattr(torch, args.dtype))
    seconds, _ = timed(lambda: [a @ a for _ in range(10)], torch.device(args.device))
    return 10 * 2 * size**3 / seconds


def flops(denoiser: Denoiser, tokens: int, width: int, scored: int) -> float:
    """Of one pass over `tokens` tokens in sequences of `width`, with logits at `scored` places."""
    network = denoiser.causal_lm
    hidden, layers = network.config.hidden_size, network.config.num_hidden_layers
    head = network.get_output_embeddings().weight.numel()
    weights = sum(p.numel() for p in network.get_decoder().layers.parameters())
    return 2.0 * weights * tokens + 2.0 * head * scored + 4.0 * hidden * layers * width * tokens


def rollouts(args: argparse.Namespace, denoiser: Denoiser, rate: float) -> None:
    """Tokens per second of every mode, with the speed over the plain loop."""
    device = torch.device(args.device)
    sampler = Sampler(gen_length=args.length, block_length=args.length // 4, steps=args.length // 2)
    modes = {
        "exact": sampler,
        "prefix cache": replace(sampler, cache="prefix"),
        "dual cache": replace(sampler, cache="dual"),
    }
    rows = []
    for batch in map(int, args.batches.split(",")):
        generator = torch.Generator().manual_seed(1)
        shape = (batch, args.prompt)
        prompt = torch.randint(args.vocabulary - 1, shape, generator=generator).to(device)
        seeds = torch.arange(batch, device=device)
        mask_id, steps = args.vocabulary - 1, args.plain_steps

        def plain(prompt: Any = prompt, mask_id: int = mask_id, steps: int = steps) -> None:
            plain_sample(denoiser.network, prompt, sampler, mask_id, max_steps=steps)

        with torch.no_grad():
            seconds, peak = timed(plain, device)
        first = seconds * sampler.steps / steps
        rows.append([str(batch), "plain", f"{batch * args.length / first:.1f}", "1.00x"])
        rows[-1] += ["", f"{peak:.1f}"]
        for name, settings in modes.items():

            def ours(prompt: Any = prompt, seeds: Any = seeds, settings: Any = settings) -> None:
                sample(denoiser, prompt, None, seeds, settings)

            seconds, peak = timed(ours, device)
            row = [str(batch), name, f"{batch * args.length / seconds:.1f}"]
            row.append(f"{first / seconds:.2f}x")
            width = args.prompt + args.length
            scored = batch * args.length // 4 // 2
            work = sampler.steps * flops(denoiser, batch * width, width, scored)
            row.append(f"{work / seconds / rate:.1%}" if name == "exact" else "")
            rows.append([*row, f"{peak:.1f}"])
    columns = ("batch", "mode", "tokens/s", "speed", "of the matrix rate", "peak GiB")
    print_table(f"rollouts, {args.length} tokens, 2 a step", columns, rows)


def training(args: argparse.Namespace, denoiser: Denoiser, rate: float) -> Callable[[], None]:
    """A LoRA step of ESPO at several numbers of draws; returns the step with the fewest."""
    from peft import LoraConfig, get_peft_model

    device = torch.device(args.device)
    lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules="all-linear")
    denoiser.network = get_peft_model(denoiser.network, lora)
    denoiser.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    denoiser.causal_lm.enable_input_require_grads()
    rows, steps, mask_id = [], [], args.vocabulary - 1
    for draws in (2, 16):
        generator = torch.Generator().manual_seed(1)
        size = args.group
        prompt = torch.randint(mask_id, (size, args.prompt), generator=generator)
        completion = torch.randint(mask_id, (size, args.length), generator=generator)
        context = DrawContext(
            seeds=list(range(size)),
            lengths=torch.full((size,), args.length),
            prompt_lengths=torch.full((size,), args.prompt),
            canvas=args.length,
            step_map=torch.zeros_like(completion),
        )
        maskings = ELBO(num_mc=draws).draw(context).to(device)
        advantages = torch.randn(size, generator=generator).to(device)
        nothing = torch.zeros_like(maskings.weight)
        inputs = ObjectiveInputs(
            logp=nothing,
            old_logp=nothing,
            ref_logp=None,
            weight=maskings.weight,
            views_per_draw=maskings.views_per_draw,
            advantages=advantages,
            rewards=advantages,
            lengths=context.lengths.to(device),
            canvas=args.length,
            group_size=size,
            totals=Totals(size, 1, 1, 1),
        )
        completions = Completions(
            prompt.to(device), torch.ones_like(prompt).to(device), completion.to(device)
        )

        def step(
            completions: Any = completions, maskings: Any = maskings, inputs: Any = inputs
        ) -> None:
            denoiser.zero_grad()
            streamed_backward(
                denoiser,
                completions,
                maskings,
                ESPO(beta=0.0),
                inputs,
                on_policy=False,
                mask_token_id=mask_id,
                max_tokens=args.max_tokens,
            )

        seconds, peak = timed(step, device)
        width, views = args.prompt + args.length, maskings.num_views
        scored = int(maskings.scored.sum())
        once = flops(denoiser, size * views * width, width, scored)
        # The forward pass, its recomputation by checkpointing, a backward pass to activations alone
        # (frozen weights have no gradient), and a first pass where a sequence's views are cut.
        work = (3 + (views * width > args.max_tokens)) * once
        rows.append([str(draws), f"{seconds:.2f}", f"{work / seconds / rate:.1%}"])
        rows[-1].append(f"{peak:.1f}")
        steps.append(step)
    columns = ("draws M", "seconds", "of the matrix rate", "peak GiB")
    print_table(f"LoRA step, group {args.group}, length {args.length}", columns, rows)
    return steps[0]


def kernels(work: Callable[[], None], device: torch.device) -> None:
    """The five operations that take most of the time."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as found:
        work()
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, attribute))
    total = sum(getattr(event, attribute) for event in events)
    rows = [
        (event.key[:80], f"{getattr(event, attribute) / total:.1%}", str(event.count))
        for event in events[:5]
    ]
    print_table("top kernels of the LoRA step", ("kernel", "share", "calls"), rows)


def main() -> None:
    options = parser(__doc__, vocabulary=126_464, hidden=4096, layers=32)
    options.set_defaults(device="cuda")
    options.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options.add_argument("--prompt", type=int, default=256)
    options.add_argument("--length", type=int, default=256)
    options.add_argument("--batches", default="1,16,64")
    options.add_argument("--plain-steps", type=int, default=8)
    options.add_argument("--group", type=int, default=8)
    options.add_argument("--rank", type=int, default=64)
    options.add_argument("--max-tokens", type=int, default=16_384)
    options.add_argument("--compile", action="store_true", help="the layers, at their first pass")
    args = options.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        options.error("no CUDA device: give --device cpu and a small shape for a smoke test")
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    rate = matrix_rate(args)
    print_table("device", ("name", "matrix TFLOP/s"), [(name, f"{rate / 1e12:.1f}")])
    denoiser = build(args)
    rollouts(args, denoiser, rate)
    kernels(training(args, denoiser, rate), device)


if __name__ == "__main__":
    main()
