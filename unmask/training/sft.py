"""Masked-diffusion supervised fine-tuning: teach a model to fill in hidden demonstrations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from unmask.config import SFTConfig
from unmask.errors import Preempted
from unmask.estimators import DrawContext
from unmask.maskings import derive_seed
from unmask.models.denoiser import Denoiser
from unmask.models.families import recognise
from unmask.models.policy import Policy
from unmask.models.tiny import build_network, build_tokenizer
from unmask.objectives.base import ObjectiveInputs, Totals
from unmask.objectives.maximum_likelihood import MaximumLikelihood
from unmask.sampling.sampler import completion_lengths
from unmask.tasks import Task, get_task
from unmask.training import checkpoint
from unmask.training.data import check_fit, encode_examples, load_dataset, require_column, take
from unmask.training.interrupt import Interruption
from unmask.training.optimization import build_optimizer, build_scheduler
from unmask.training.policy_gradient import Completions, streamed_backward
from unmask.training.run import Run
from unmask.training.run_folder import peak_memory_bytes
from unmask.training.setup import describe, load_for_training
from unmask.training.update import make_engine

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the completion to imitate, as tokens; the completion fills the canvas."""

    prompt_ids: list[int]
    completion_ids: list[int]


class SupervisedTrainer:
    """Maximises the ELBO of demonstrations.

    Args:
        config: the recipe.
        show: draw progress on the terminal.

    Raises:
        ValueError: for data or a model that do not fit, before training.
    """

    def __init__(self, config: SFTConfig, *, show: bool = False) -> None:
        self.config = config
        self._show = show
        self._interruption = Interruption()
        self._task = get_task(config.task.name, **config.task.options)
        self._data = _demonstrations(config, self._task)
        for column in ("prompt", "completion"):
            require_column(self._data, column, "the training set")
        self._step = 0
        self._seconds = 0.0

    def train(self) -> dict[str, Any]:
        """Run to the end, or to a signal.

        Returns:
            The content of results.json.

        Raises:
            Preempted: after SIGTERM or Ctrl-C, once a checkpoint is written.
        """
        with self._interruption.watch():
            self._set_up()
            try:
                self._loop()
                return self._finish()
            except Preempted:
                self._save()
                raise
            finally:
                self.run.close()

    def _set_up(self) -> None:
        config = self.config
        self.run = Run(config, show=self._show)
        accelerator = self.run.accelerator
        self.policy = _load(config, self._task, accelerator.device)
        self._examples = encode_demonstrations(self._data, self.policy, config)
        self._optimizer = build_optimizer(self.policy.denoiser, config.optimizer)
        self._scheduler = build_scheduler(
            self._optimizer, config.optimizer, config.training.num_steps
        )
        self._model, self._prepared = accelerator.prepare(self.policy.denoiser, self._optimizer)
        self._loss = float("nan")
        if self.run.resume_from is not None:
            self._resume()
        self.run.start(self._step)
        self._clock = time.monotonic() - self._seconds

    def _loop(self) -> None:
        every = self.config.checkpoint.every
        while self._step < self.config.training.num_steps:
            if any(gather_object([self._interruption.requested])):
                raise Preempted(f"saved in {self.run.folder.path}")
            metrics = self._update()
            self._step += 1
            self._loss = metrics["loss"]
            self.run.log(
                {
                    "kind": "sft",
                    "step": self._step,
                    "time": time.monotonic() - self._clock,
                    **metrics,
                }
            )
            if every and self._step % every == 0:
                self._save()

    def _update(self) -> dict[str, float]:
        config, accelerator = self.config, self.run.accelerator
        size = config.training.batch_size
        batch = take(self._examples, self._step * size, size, config.seed)
        mine = range(accelerator.process_index, size, accelerator.num_processes)
        rows = [batch[index] for index in mine]
        prompt_ids, prompt_mask = self.policy.pad_prompts([row.prompt_ids for row in rows])
        completion_ids = torch.tensor([row.completion_ids for row in rows])
        lengths = completion_lengths(completion_ids, self.policy.family.eos_ids)
        seeds = [derive_seed("sft", config.seed, self._step, index) for index in mine]
        device = accelerator.device
        maskings = config.estimator.draw(
            DrawContext(
                seeds=seeds,
                lengths=lengths,
                prompt_lengths=prompt_mask.sum(-1),
                canvas=completion_ids.shape[1],
                step_map=torch.zeros_like(completion_ids),
            )
        ).to(device)
        nothing = torch.zeros_like(maskings.weight)
        flat = torch.zeros(len(rows), device=device)
        self._prepared.zero_grad()
        output, _ = streamed_backward(
            self._model,
            Completions(prompt_ids.to(device), prompt_mask.to(device), completion_ids.to(device)),
            maskings,
            MaximumLikelihood(),
            ObjectiveInputs(
                logp=nothing,
                old_logp=nothing,
                ref_logp=None,
                weight=maskings.weight,
                views_per_draw=maskings.views_per_draw,
                advantages=flat,
                rewards=flat,
                lengths=lengths.to(device),
                canvas=completion_ids.shape[1],
                group_size=1,
                totals=Totals(sequences=size, scored_tokens=1, lengths=1, nonzero_advantages=1),
            ),
            on_policy=True,
            mask_token_id=self.policy.family.mask_token_id,
            max_tokens=config.training.tokens_per_pass,
            engine=make_engine(self._model, accelerator),
        )
        limit = config.optimizer.max_grad_norm
        grad_norm = float(
            accelerator.clip_grad_norm_(
                self._model.parameters(), float("inf") if limit is None else limit
            )
        )
        loss = accelerator.reduce(output.loss.detach().clone(), reduction="sum").item()
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": self._scheduler.get_last_lr()[0],
        }
        self._prepared.step()
        self._scheduler.step()
        return metrics

    def _finish(self) -> dict[str, Any]:
        self.run.save_model(self.policy, self._model)
        results = {
            "loss": self._loss,
            "steps": self._step,
            "seconds": time.monotonic() - self._clock,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        self.run.write_json("results.json", results)
        return results

    def _save(self) -> None:
        self._seconds = time.monotonic() - self._clock
        weights, optimizer = checkpoint.gather_state(self._model, self._optimizer)
        state = {
            "step": self._step,
            "seconds": self._seconds,
            "scheduler": self._scheduler.state_dict(),
            **self.run.identity(),
        }
        self.run.write_checkpoint(self._step, state, {"policy": weights, "optimizer": optimizer})

    def _resume(self) -> None:
        assert self.run.resume_from is not None
        state, tensors = checkpoint.read_checkpoint(self.run.resume_from)
        self.run.require_same_run(state)
        checkpoint.restore_state(
            self._model, self._optimizer, tensors["policy"], tensors["optimizer"]
        )
        self._scheduler.load_state_dict(state["scheduler"])
        self._step, self._seconds = state["step"], state["seconds"]


def encode_demonstrations(data: Dataset, policy: Policy, config: SFTConfig) -> list[Demonstration]:
    """Tokens of every demonstration, the completion filled up with EOS to the canvas.

    Raises:
        ValueError: if no demonstration fits.
    """
    canvas = config.sampler.gen_length
    examples = encode_examples(
        data,
        policy.encode,
        max_prompt_length=config.task.max_prompt_length,
        long_prompts=config.task.long_prompts,
        source="the training set",
    )
    policy.require_room(max(len(example.prompt_ids) for example in examples) + canvas)
    result = []
    for example in examples:
        ids = policy.encode_completion(example.columns["completion"])
        if len(ids) <= canvas:
            result.append(Demonstration(example.prompt_ids, policy.fill_canvas(ids, canvas)))
    check_fit(len(result), len(examples), canvas, "demonstration")
    return result


def _demonstrations(config: SFTConfig, task: Task) -> Dataset:
    settings = config.task
    if settings.dataset is not None:
        return load_dataset(settings.dataset, settings.split)
    return task.demonstrations(
        settings.size,
        config.seed,
        prompt=settings.prompt or task.prompts[0],
        noise=settings.noise,
    )


def _load(config: SFTConfig, task: Task, device: torch.device) -> Policy:
    """The checkpoint to go on from, or a new tiny model with the task's vocabulary."""
    if config.model.path is not None:
        policy = load_for_training(config, device)
    else:
        tokenizer = build_tokenizer(task.symbols)
        network = build_network(config.model.init, tokenizer, config.seed)
        family = recognise(network.config.to_dict(), "the new model")
        autocast = torch.bfloat16 if config.training.precision == "bf16" else None
        denoiser = Denoiser(network, mask_token_id=family.mask_token_id, autocast=autocast)
        policy = Policy(denoiser.to(device), tokenizer, family, source=None)
    describe(policy, config)
    return policy
