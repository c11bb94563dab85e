"""The inner updates of one round: draw maskings, evaluate old and reference, step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unmask.config import TrainConfig
from unmask.estimators import ESTIMATORS, DrawContext, Estimator
from unmask.likelihood import estimate_variance, sequence_estimate
from unmask.maskings import Maskings, derive_seed
from unmask.models.policy import Policy
from unmask.models.reference import Reference
from unmask.models.settings import Promising
from unmask.objectives.base import Metric, ObjectiveInputs, Totals
from unmask.training.metrics import reduce_metrics
from unmask.training.policy_gradient import (
    Engine,
    evaluate_logprobs,
    streamed_backward,
    with_candidates,
)
from unmask.training.rollout import Rollout


@dataclass
class Round:
    """A rollout with the log-probabilities that must be taken before the first update.

    Attributes:
        number: of the round.
        rollout: this rank's completions.
        old: by update, float32 [B, M, L] under the policy that made the rollout; absent for the
            first update, where the current policy is that policy.
        ref: by update, float32 [B, M, L] under the reference policy.
        log_ref_ratio: float32 [B], log p_ref - log p_old of each completion, on draws of its own;
            None where the objective reads none.
        candidates: by update, int64 [B, M, L, C], the tokens that the softmax runs over, chosen by
            the reference or the rollout's policy; absent where it runs over the whole vocabulary.
    """

    number: int
    rollout: Rollout
    old: dict[int, Tensor]
    ref: dict[int, Tensor]
    log_ref_ratio: Tensor | None = None
    candidates: dict[int, Tensor] = field(default_factory=dict)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to go on with the updates of this round."""
        tensors = self.rollout.tensors()
        tensors |= {f"old.{index}": values.cpu() for index, values in self.old.items()}
        tensors |= {f"ref.{index}": values.cpu() for index, values in self.ref.items()}
        tensors |= {f"tokens.{index}": values.cpu() for index, values in self.candidates.items()}
        if self.log_ref_ratio is not None:
            tensors["log_ref_ratio"] = self.log_ref_ratio.cpu()
        return tensors

    @staticmethod
    def from_state(number: int, tensors: dict[str, Tensor], device: torch.device) -> Round:
        """The reverse of `state`."""

        def by_update(prefix: str) -> dict[int, Tensor]:
            return {
                int(name.removeprefix(prefix)): values.to(device)
                for name, values in tensors.items()
                if name.startswith(prefix)
            }

        rollout = Rollout.from_tensors(tensors, device)
        ratio = tensors.get("log_ref_ratio")
        ratio = None if ratio is None else ratio.to(device)
        old, ref, tokens = map(by_update, ("old.", "ref.", "tokens."))
        return Round(number, rollout, old, ref, ratio, tokens)


class Updater:
    """Makes the updates of a round.

    Args:
        policy: whose denoiser `model` wraps.
        model: the denoiser as accelerate prepared it.
        optimizer: as accelerate prepared it.
        scheduler: steps once per update that is not skipped.
        reference: None where the objective needs none.
        accelerator: exchanges gradients and counts.
        config: the run's.
    """

    def __init__(
        self,
        policy: Policy,
        model: nn.Module,
        optimizer: Any,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        reference: Reference | None,
        accelerator: Accelerator,
        config: TrainConfig,
    ) -> None:
        self._policy = policy
        self._model = model
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._reference = reference
        self._accelerator = accelerator
        self._config = config
        self._passes: dict[str, Any] = {
            "mask_token_id": policy.family.mask_token_id,
            "max_tokens": config.training.tokens_per_pass,
            "engine": make_engine(model, accelerator),
        }

    def prepare(self, rollout: Rollout, number: int) -> Round:
        """Evaluate what later updates compare with, before the policy moves."""
        updates = range(self._config.training.num_iterations)
        old: dict[int, Tensor] = {}
        ref: dict[int, Tensor] = {}
        drawn = {index: self._maskings(rollout, number, index) for index in updates}
        if self._config.promising is not None:
            assert self._reference is not None
            with self._reference.active(self._model) as reference:
                drawn = self._restrict(reference, rollout, drawn, self._config.promising)
        elif self._config.sampled_candidates is not None:
            drawn = self._restrict(self._model, rollout, drawn, self._config.sampled_candidates)
        if self._config.objective.needs_old:
            for index in updates[1:]:
                old[index] = evaluate_logprobs(
                    self._model, rollout.completions, drawn[index], **self._passes
                )
        if self._reference is not None and self._config.objective.needs_reference:
            with self._reference.active(self._model) as reference:
                for index in updates:
                    ref[index] = evaluate_logprobs(
                        reference, rollout.completions, drawn[index], **self._passes
                    )
        candidates = {
            index: maskings.candidates
            for index, maskings in drawn.items()
            if maskings.candidates is not None
        }
        ratio = self._log_ref_ratio(rollout, number)
        return Round(number, rollout, old, ref, ratio, candidates)

    def step(self, round_: Round, index: int) -> dict[str, float] | None:
        """One update; its metrics, or None if the loss or the gradient was not finite.

        Args:
            round_: from `prepare`.
            index: of the update in the round, from 0.
        """
        began = time.monotonic()
        config, rollout = self._config, round_.rollout
        maskings = replace(
            self._maskings(rollout, round_.number, index), candidates=round_.candidates.get(index)
        )
        inputs = self._inputs(round_, index, maskings)
        self._optimizer.zero_grad()
        output, logp = streamed_backward(
            self._model,
            rollout.completions,
            maskings,
            config.objective,
            inputs,
            on_policy=index == 0,
            **self._passes,
        )
        limit = config.optimizer.max_grad_norm
        grad_norm = float(
            self._accelerator.clip_grad_norm_(
                self._model.parameters(), float("inf") if limit is None else limit
            )
        )
        total = self._accelerator.reduce(output.loss.detach().clone(), reduction="sum")
        loss = float(total)
        reported = dict(output.metrics)
        # An estimator without num_mc has one draw, or views that are no draws.
        if (getattr(config.estimator, "num_mc", None) or 1) > 1:
            spread = estimate_variance(logp, maskings.weight, maskings.views_per_draw)
            reported["estimate_variance"] = Metric(spread)
        metrics = reduce_metrics(reported, self._accelerator)
        metrics["loss"], metrics["grad_norm"] = loss, grad_norm
        metrics["learning_rate"] = float(self._scheduler.get_last_lr()[0])
        if not torch.tensor([loss, grad_norm]).isfinite().all():
            self._optimizer.zero_grad()
            return None
        self._optimizer.step()
        self._scheduler.step()
        metrics["seconds_update"] = time.monotonic() - began
        return metrics

    def _restrict(
        self,
        model: nn.Module,
        rollout: Rollout,
        drawn: dict[int, Maskings],
        promising: Promising,
    ) -> dict[int, Maskings]:
        """By update, the maskings with a policy's most probable tokens as candidates."""
        return {
            index: with_candidates(model, rollout.completions, maskings, promising, **self._passes)
            for index, maskings in drawn.items()
        }

    def _log_ref_ratio(self, rollout: Rollout, number: int) -> Tensor | None:
        """log p_ref - log p_old of each completion, where the objective asks for it."""
        settings = self._config.objective.rollout_estimator
        if settings is None or self._reference is None:
            return None
        options = dict(settings)
        estimator = ESTIMATORS[options.pop("name")](**options)
        maskings = self._draw(estimator, rollout, number, 0, "rollout masking")
        old = evaluate_logprobs(self._model, rollout.completions, maskings, **self._passes)
        with self._reference.active(self._model) as reference:
            ref = evaluate_logprobs(reference, rollout.completions, maskings, **self._passes)
        difference = sequence_estimate(ref - old, maskings.weight, maskings.views_per_draw)
        return difference

    def _maskings(self, rollout: Rollout, number: int, index: int) -> Maskings:
        return self._draw(self._config.estimator, rollout, number, index, "masking")

    def _draw(
        self, estimator: Estimator, rollout: Rollout, number: int, index: int, stream: str
    ) -> Maskings:
        seed, completions = self._config.seed, rollout.completions

        def seeds(*parts: int | str) -> list[int]:
            return [derive_seed(stream, seed, number, i, *parts) for i in rollout.sequence_ids]

        ids = completions.completion_ids
        eos_ids = torch.tensor(self._policy.family.eos_ids, dtype=ids.dtype, device=ids.device)
        context = DrawContext(
            seeds=seeds(index),
            lengths=rollout.lengths,
            prompt_lengths=completions.prompt_lengths.cpu(),
            canvas=ids.shape[1],
            step_map=rollout.step_map,
            eos=torch.isin(ids, eos_ids).cpu(),
            round_seeds=seeds("round"),
            update=index,
            num_updates=self._config.training.num_iterations,
            entropy=rollout.entropy,
        )
        return estimator.draw(context).to(ids.device)

    def _inputs(self, round_: Round, index: int, maskings: Maskings) -> ObjectiveInputs:
        rollout, device = round_.rollout, maskings.weight.device
        rewards = rollout.rewards.to(device)
        nothing = torch.zeros_like(maskings.weight)
        inputs = ObjectiveInputs(
            logp=nothing,
            old_logp=round_.old.get(index, nothing),
            ref_logp=round_.ref.get(index),
            weight=maskings.weight,
            views_per_draw=maskings.views_per_draw,
            advantages=rollout.advantages.to(device),
            rewards=rewards,
            lengths=rollout.lengths.to(device),
            canvas=maskings.hidden.shape[-1],
            group_size=self._config.training.num_generations,
            totals=Totals(1, 1, 1, 1),
            log_ref_ratio=round_.log_ref_ratio,
            values=None if rollout.values is None else rollout.values.to(device),
        )
        counts = torch.stack(
            [
                (~rewards.isnan()).sum(),
                maskings.scored.sum(),
                inputs.lengths.sum(),
                (inputs.advantages != 0).sum(),
                maskings.scored.any(-1).sum(),
            ]
        ).double()
        totals = self._accelerator.reduce(counts, reduction="sum").clamp(min=1).tolist()
        return replace(inputs, totals=Totals(*totals))


def make_engine(model: nn.Module, accelerator: Accelerator) -> Engine:
    """The backward pass of this process group, for `streamed_backward`."""

    def largest(count: int) -> int:
        mine = torch.tensor([count], device=accelerator.device)
        return int(accelerator.gather(mine).max())

    return Engine(
        backward=accelerator.backward,
        no_sync=lambda: accelerator.no_sync(model),
        agree_on_slices=largest,
        # DDP averages gradients over ranks; the loss is a sum over them.
        scale=float(accelerator.num_processes),
    )
