"""Models as `lm_eval` knows them: likelihoods by the ELBO, generations by the sampler.

`unmask-lm-eval` is `lm_eval` with this model registered, since a release of lm-eval does not look
for models in other packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from unmask.estimators import ELBO, DrawContext
from unmask.generation import generate
from unmask.likelihood import sequence_estimate
from unmask.maskings import derive_seed
from unmask.models.policy import Policy, load_policy
from unmask.sampling.settings import Sampler


@register_model("unmask")
class UnmaskLM(LM):
    """A masked diffusion model behind lm-eval's three requests.

    Args:
        path: a folder, the name of a packaged model, or a hub id.
        num_mc: M, coupled draws of the ELBO behind a likelihood, two forward passes each.
        gen_length: canvas of a generation, in tokens.
        block_length: tokens per block.
        steps: denoising steps; None = as many as tokens.
        temperature: of generations; 0 = greedy.
        dtype: of the weights.
        device: where to put them; None = a GPU if there is one.
        max_tokens: padded tokens of one forward pass.
        seed: of the draws.

    Raises:
        ValueError: for a model or settings that do not fit.
    """

    def __init__(
        self,
        path: str,
        *,
        num_mc: int = 32,
        gen_length: int = 256,
        block_length: int = 32,
        steps: int | None = None,
        temperature: float = 0.0,
        dtype: str = "auto",
        device: str | None = None,
        max_tokens: int = 16384,
        seed: int = 42,
        **_: Any,
    ) -> None:
        super().__init__()
        self._sampler = Sampler(
            gen_length=gen_length,
            block_length=min(block_length, gen_length),
            steps=steps or gen_length,
            temperature=temperature,
        )
        self._estimator = ELBO(num_mc=num_mc, coupled=True, stratified=True)
        self.policy: Policy = load_policy(path, dtype=dtype, device=device)
        self._max_tokens, self._seed = max_tokens, seed

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> UnmaskLM:
        """The model of `--model_args`, which win over the options of the command.

        The command's own default for a device is a GPU, on machines without one too.
        """
        options = {k: v for k, v in (additional_config or {}).items() if v is not None}
        if str(options.get("device")).startswith("cuda") and not torch.cuda.is_available():
            del options["device"]
        return cls(**{**options, **arg_dict})

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> UnmaskLM:
        """See `create_from_arg_obj`; the arguments are "name=value,name=value"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """For each (context, continuation): the ELBO of the continuation, in nats.

        The second value says whether every token is the model's first choice with the whole
        continuation hidden, the nearest there is to greedy decoding in one pass.
        """
        return [self._likelihood(*map(str, request.args[:2])) for request in requests]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """For each text: its ELBO, in nats."""
        return [self._likelihood("", str(request.args[0]))[0] for request in requests]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """For each (context, settings): a completion up to the first of the stop texts.

        Of the settings `until` and `max_gen_toks` are read; shorter than the canvas, the latter
        cuts the text.
        """
        if not requests:
            return []
        contexts = [str(request.args[0]) for request in requests]
        encoded = [self._encode(context) for context in contexts]
        self.policy.require_room(max(map(len, encoded)) + self._sampler.gen_length)
        seeds = [derive_seed("lm_eval", self._seed, i, text) for i, text in enumerate(contexts)]
        samples = generate(self.policy, encoded, self._sampler, seeds, max_tokens=self._max_tokens)
        results = []
        for ids, request in zip(samples.completion_ids.tolist(), requests, strict=True):
            settings = dict(request.args[1])
            text = self.policy.decode(ids[: settings.get("max_gen_toks")])
            until = settings.get("until") or []
            for stop in [until] if isinstance(until, str) else until:
                text = text.split(stop)[0] if stop else text
            results.append(text)
            self.cache_hook.add_partial("generate_until", request.args, text)
        return results

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the checkpoint's tokenizer writes it."""
        return str(
            self.policy.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return str(self.policy.source)

    def _encode(self, text: str) -> list[int]:
        return self.policy.encode_completion(text) if text else []

    @torch.no_grad()
    def _likelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        denoiser = self.policy.denoiser
        prompt, target = self._encode(context), self._encode(continuation)
        if not target:
            return 0.0, True
        self.policy.require_room(len(prompt) + len(target))
        length = len(target)
        seed = derive_seed("lm_eval", self._seed, context, continuation)
        maskings = self._estimator.draw(
            DrawContext(
                seeds=[seed],
                lengths=torch.tensor([length]),
                prompt_lengths=torch.tensor([len(prompt)]),
                canvas=length,
                step_map=torch.zeros(1, length, dtype=torch.int64),
            )
        )
        hidden, weight = maskings.hidden[0], maskings.weight[0]  # [M, L]
        ids = torch.tensor([*prompt, *target]).expand(len(hidden), -1)
        front = torch.zeros(len(hidden), len(prompt), dtype=torch.bool)
        masked = ids.masked_fill(torch.cat([front, hidden], 1), denoiser.mask_token_id)
        scored = torch.cat([front, weight > 0], 1)
        logp = torch.zeros_like(weight)
        rows = max(1, self._max_tokens // ids.shape[1])
        for start in range(0, len(hidden), rows):
            piece = slice(start, start + rows)
            if scored[piece].any():
                found = denoiser.token_logprobs(
                    masked[piece].to(denoiser.device),
                    None,
                    ids[piece].to(denoiser.device),
                    scored[piece].to(denoiser.device),
                )
                logp[piece][weight[piece] > 0] = found.cpu().to(logp.dtype)
        estimate = sequence_estimate(logp[None], weight[None], maskings.views_per_draw)
        return estimate.item(), self._is_first_choice(prompt, target)

    def _is_first_choice(self, prompt: list[int], target: list[int]) -> bool:
        denoiser = self.policy.denoiser
        ids = torch.tensor([[*prompt, *[denoiser.mask_token_id] * len(target)]])
        columns = torch.arange(len(prompt), ids.shape[1])[None]
        logits = denoiser.propose(ids.to(denoiser.device), None, columns.to(denoiser.device))
        return logits[0].argmax(-1).tolist() == target


def main() -> None:
    """`lm_eval` with the model "unmask" registered."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
