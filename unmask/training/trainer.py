"""The loop: roll out, score, update, measure, save. Resumable at every update, bit for bit."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unmask.advantages import zero_std_fraction
from unmask.config import TrainConfig
from unmask.errors import Diverged, Preempted
from unmask.evaluation.measuring import measure, measured_samplers, summarise
from unmask.models.policy import Policy
from unmask.models.reference import Reference
from unmask.models.settings import LoRA
from unmask.recipe import config_hash
from unmask.training import checkpoint
from unmask.training.data import Example, take
from unmask.training.interrupt import Interruption
from unmask.training.mismatch import summarise_mismatch
from unmask.training.optimization import build_optimizer, build_scheduler
from unmask.training.preferences import encode_preferences, preference_rollout
from unmask.training.rewards import RewardFunction
from unmask.training.rollout import Rollout, collect, summarise_records
from unmask.training.run import Run
from unmask.training.run_folder import peak_memory_bytes
from unmask.training.setup import build_config, build_problems, describe, load_for_training
from unmask.training.update import Round, Updater
from unmask.training.values import prompt_values

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Counters of a run; with the weights and a pending round, all that a checkpoint holds.

    Attributes:
        rollout: finished rounds.
        update: finished updates of the current round.
        step: finished updates of the run, skipped ones included.
        completions: completions sampled for training.
        forwards: sequences x model passes of rollouts and likelihoods, measuring left out.
        skipped: updates skipped for a non-finite loss or gradient.
        skipped_in_row: those since the last good one.
        evaluated: the last round after which the policy was measured; -1 = never.
        seconds: time spent, over all parts of an interrupted run.
        before: measurement of the untrained policy.
        after: the latest measurement.
        best: score of the best measurement; None = nothing was measured.
        best_rollout: finished rounds when it was taken.
    """

    rollout: int = 0
    update: int = 0
    step: int = 0
    completions: int = 0
    forwards: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    evaluated: int = -1
    seconds: float = 0.0
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    best: float | None = None
    best_rollout: int = 0


class Trainer:
    """Reinforcement-learning post-training of a masked diffusion language model.

    Everything left out has the value of `unmask config`; an objective brings its paper's
    estimator and advantage along.

        Trainer(model="tiny-sudoku", reward=my_reward, train_dataset=dataset,
                objective=ESPO(beta=3e-3), sampler=Sampler(gen_length=16, ...)).train()

    Args:
        model: a folder, the name of a packaged model, a hub id, or a loaded policy.
        reward: a callable in TRL's signature, or a list of them (their sum); None = the task's.
        train_dataset: with a `prompt` column, plain or conversational; None = the task's.
        eval_dataset: measured on; None = the task's, or nothing if `train_dataset` is given.
        lora: adapters to train in place of all weights.
        exact: verifier in TRL's signature that gives 1.0 where a problem is solved.
        config: a whole recipe; `sections` override it.
        show: draw progress on the terminal.
        sections: parts of a recipe: objective, estimator, advantage, sampler, optimizer,
            training, evaluation, checkpoint, logging, task, output_dir, seed.

    Raises:
        ValueError: for settings, data or a model that do not fit, before anything heavy.
    """

    def __init__(
        self,
        model: str | Policy | None = None,
        reward: RewardFunction | list[RewardFunction] | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        *,
        lora: LoRA | None = None,
        exact: RewardFunction | None = None,
        config: TrainConfig | None = None,
        show: bool = False,
        **sections: Any,
    ) -> None:
        self.config = build_config(config, model, reward, lora, sections)
        self._problems = build_problems(
            self.config, reward=reward, train=train_dataset, held_out=eval_dataset, exact=exact
        )
        self._given_policy = model if isinstance(model, Policy) else None
        self._show = show
        self._interruption = Interruption()
        self._pending: Round | None = None
        self._round_metrics: dict[str, float] = {}
        self._forwards = 0
        self._hooks: list[RemovableHandle] = []
        self.progress = Progress()

    def train(self) -> dict[str, Any]:
        """Run to the end, or to a signal.

        Returns:
            The content of results.json.

        Raises:
            Preempted: after SIGTERM or Ctrl-C, once a checkpoint is written.
            Diverged: after too many updates in a row with a non-finite loss or gradient.
            RewardError: if a reward raises or returns what is no list of scores.
        """
        with self._interruption.watch():
            self._set_up()
            try:
                self._loop()
                return self._finish()
            except (Preempted, Diverged):
                self._save()
                raise
            finally:
                for hook in self._hooks:
                    hook.remove()
                self.run.close()

    def _set_up(self) -> None:
        config = self.config
        self.run = Run(config, show=self._show)
        accelerator = self.run.accelerator
        self.policy = self._given_policy or load_for_training(config, accelerator.device)
        self._problems.encode(self.policy, config)
        objective = config.objective
        self.policy.denoiser.sampled_at = (
            config.sampler.temperature if objective.sampling_logprobs else None
        )
        if objective.offline:
            self._problems.train = encode_preferences(
                self._problems.train, self.policy, config.sampler.gen_length
            )
        needs_reference = (
            objective.needs_reference
            or objective.rollout_estimator is not None
            or config.promising is not None
        )
        self._reference = Reference(self.policy) if needs_reference else None
        evaluated = [self.policy.denoiser, self._reference and self._reference.copy]
        # After the copy, which would take a hook along.
        self._hooks = [
            module.register_forward_pre_hook(self._count_forwards) for module in evaluated if module
        ]
        optimizer = build_optimizer(self.policy.denoiser, config.optimizer)
        num_steps = config.training.num_rollouts * config.training.num_iterations
        self._scheduler = build_scheduler(optimizer, config.optimizer, num_steps)
        self._optimizer = optimizer
        self._model, prepared = accelerator.prepare(self.policy.denoiser, optimizer)
        self._updater = Updater(
            self.policy,
            self._model,
            prepared,
            self._scheduler,
            self._reference,
            accelerator,
            config,
        )
        if self.run.resume_from is not None:
            self._resume()
        self.run.start(self.progress.step)
        self._clock = time.monotonic() - self.progress.seconds

    def _loop(self) -> None:
        config, progress = self.config, self.progress
        last = config.training.num_rollouts
        while True:
            ends = progress.rollout in (0, last)
            if progress.update == 0 and self._pending is None:
                if progress.evaluated < progress.rollout and (
                    ends or _due(progress.rollout, config.evaluation.every)
                ):
                    self._evaluate()
                if progress.rollout == last or (
                    progress.rollout and _due(progress.rollout, config.checkpoint.every)
                ):
                    self._save()
            if progress.rollout == last:
                return
            self._round()

    def _round(self) -> None:
        config, progress = self.config, self.progress
        if self._pending is None:
            every = config.training.reference_sync_every
            if self._reference and progress.rollout and _due(progress.rollout, every):
                self._reference.sync()
            self._pending = self._updater.prepare(self._collect(), progress.rollout)
        while progress.update < config.training.num_iterations:
            self._stop_if_asked()
            self._update(self._pending)
        self._pending = None
        progress.update = 0
        progress.rollout += 1

    def _collect(self) -> Rollout:
        config, progress, accelerator = self.config, self.progress, self.run.accelerator
        began = time.monotonic()
        number, per_round = progress.rollout, config.training.prompts_per_rollout
        group_size = config.training.num_generations
        examples = take(self._problems.train, number * per_round, per_round, config.seed)
        share, rest = divmod(per_round, accelerator.num_processes)
        rank = accelerator.process_index
        first = rank * share + min(rank, rest)
        mine, first_sequence = examples[first : first + share + (rank < rest)], first * group_size
        if config.objective.offline:
            rollout = preference_rollout(
                self.policy,
                mine,
                first_sequence,
                rollout=number,
                canvas=config.sampler.gen_length,
            )
        else:
            rollout = self._sample(mine, first_sequence)
        records = gather_object(rollout.records)
        # Ranks may have different numbers of groups.
        equal = len(mine) * zero_std_fraction(rollout.rewards, group_size)
        zero_std = sum(gather_object([equal])) / per_round
        num_tokens = sum(gather_object([rollout.num_tokens]))
        seconds = time.monotonic() - began
        progress.completions += len(records)
        self._forwards += rollout.num_forwards
        self._round_metrics = {
            **summarise_records(records, zero_std),
            **summarise_mismatch(gather_object([rollout.mismatch])),
            "tokens_per_second": num_tokens / seconds,
            "seconds_rollout": seconds,
        }
        if config.logging.rollouts:
            self.run.write_rollouts(number + 1, records)
        return rollout

    def _sample(self, examples: list[Example], first_sequence: int) -> Rollout:
        config, problems = self.config, self._problems
        rollout = collect(
            self.policy,
            problems,
            config,
            examples,
            first_sequence,
            rollout=self.progress.rollout,
            on_step=self._abort_if_asked,
        )
        if config.objective.value_samples:
            assert self._reference is not None
            values, num_forwards = prompt_values(
                self.policy,
                self._reference,
                examples,
                config.objective,
                sampler=config.sampler,
                reward=problems.reward,
                seed=config.seed,
                max_tokens=config.training.tokens_per_pass,
            )
            rollout.values = values.repeat_interleave(config.training.num_generations)
            rollout.num_forwards += num_forwards
        return rollout

    def _update(self, round_: Round) -> None:
        progress = self.progress
        metrics = self._updater.step(round_, progress.update)
        progress.update += 1
        progress.step += 1
        self._sum_forwards()
        if metrics is None:
            progress.skipped += 1
            progress.skipped_in_row += 1
            metrics = {"loss": float("nan"), "grad_norm": float("nan")}
        else:
            progress.skipped_in_row = 0
        row = {
            "kind": "update",
            "rollout": round_.number + 1,
            "step": progress.step,
            "time": time.monotonic() - self._clock,
            "forwards": progress.forwards,
            **self._round_metrics,
            **metrics,
            "skipped_updates": progress.skipped,
        }
        self.run.log(row)
        limit = self.config.training.max_skipped_updates
        if progress.skipped_in_row >= limit:
            raise Diverged(
                f"{limit} updates in a row had a non-finite loss or gradient at step "
                f"{progress.step}: lower optimizer.lr or raise objective.beta; "
                f"a checkpoint is in {self.run.folder.checkpoints}"
            )

    def _evaluate(self) -> None:
        config, progress = self.config, self.progress
        rank, world = self.run.accelerator.process_index, self.run.accelerator.num_processes
        result = {}
        if self._problems.held_out_data is None:
            progress.evaluated = progress.rollout
            return
        for name, sampler in measured_samplers(config).items():
            mine = measure(
                self.policy,
                self._problems.held_out[rank::world],
                sampler,
                reward=self._problems.reward,
                exact=self._problems.exact,
                seed=config.seed,
                max_tokens=config.training.tokens_per_pass,
                on_step=self._abort_if_asked,
            )
            everyone = gather_object(mine)
            result[name] = summarise(sorted(everyone, key=lambda item: item.index))
        progress.evaluated = progress.rollout
        if progress.rollout == 0:
            progress.before = result
        progress.after = result
        self.run.log(
            {
                "kind": "evaluation",
                "rollout": progress.rollout,
                "step": progress.step,
                "time": time.monotonic() - self._clock,
                "forwards": progress.forwards,
                **result,
            }
        )
        self._keep_best(score_of(result))

    def _keep_best(self, score: float | None) -> None:
        """Save the model as `best/` if it measured better than any before, the untrained included.

        Every rank has the same score, and takes part.
        """
        progress = self.progress
        if score is None or (progress.best is not None and score <= progress.best):
            return
        progress.best, progress.best_rollout = score, progress.rollout
        if progress.rollout and self.config.evaluation.keep_best:
            describe(self.policy, self.config)
            self.run.save_model(self.policy, self._model, "best")

    def _finish(self) -> dict[str, Any]:
        progress = self.progress
        describe(self.policy, self.config)
        self.run.save_model(self.policy, self._model)
        results = {
            "before": progress.before,
            "after": progress.after,
            "best_rollout": progress.best_rollout,
            "seconds": time.monotonic() - self._clock,
            "rollouts": progress.rollout,
            "completions": progress.completions,
            "forwards": progress.forwards,
            "skipped_updates": progress.skipped,
            "peak_memory_bytes": peak_memory_bytes(),
            "config_hash": config_hash(self.config),
        }
        self.run.write_json("results.json", results)
        return results

    def _save(self) -> None:
        """Write a checkpoint; every rank takes part."""
        self._sum_forwards()
        self.progress.seconds = time.monotonic() - self._clock
        weights, optimizer = checkpoint.gather_state(self._model, self._optimizer)
        tensors = {"policy": weights, "optimizer": optimizer}
        if self._reference is not None and self.config.training.reference_sync_every:
            tensors["reference"] = self._reference.state()
        pending = self._pending.state() if self._pending else {}
        for rank, state in enumerate(gather_object([pending])):
            if state:
                tensors[f"pending-{rank}"] = state
        state = {
            "progress": asdict(self.progress),
            "round_metrics": self._round_metrics,
            "scheduler": self._scheduler.state_dict(),
            **self.run.identity(),
        }
        self.run.write_checkpoint(self.progress.step, state, tensors)

    def _resume(self) -> None:
        assert self.run.resume_from is not None
        state, tensors = checkpoint.read_checkpoint(self.run.resume_from)
        self.run.require_same_run(state)
        checkpoint.restore_state(
            self._model, self._optimizer, tensors["policy"], tensors["optimizer"]
        )
        if self._reference is not None and "reference" in tensors:
            self._reference.load(tensors["reference"])
        self._scheduler.load_state_dict(state["scheduler"])
        self.progress = Progress(**state["progress"])
        self._round_metrics = state["round_metrics"]
        pending = tensors.get(f"pending-{self.run.accelerator.process_index}")
        if pending:
            device = self.run.accelerator.device
            self._pending = Round.from_state(self.progress.rollout, pending, device)

    def _count_forwards(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._forwards += len(inputs[0])

    def _sum_forwards(self) -> None:
        """Add what every rank has counted since the last time."""
        self.progress.forwards += sum(gather_object([self._forwards]))
        self._forwards = 0

    def _stop_if_asked(self) -> None:
        """Raise Preempted on every rank if a signal has reached any."""
        if any(gather_object([self._interruption.requested])):
            raise Preempted(f"saved in {self.run.folder.path}")

    def _abort_if_asked(self, *_: Any) -> None:
        """In one process, break off sampling: it is repeated exactly when the run goes on."""
        if self._interruption.requested and self.run.accelerator.num_processes == 1:
            raise Preempted(f"saved in {self.run.folder.path}")


def score_of(result: Mapping[str, Mapping[str, Any]]) -> float | None:
    """What the best model is best by: sampled accuracy, else greedy; the reward without a verifier.

    Args:
        result: of one evaluation, by "greedy" and "sampled", see `unmask.evaluation.summarise`.
    """
    measured = result.get("sampled") or result.get("greedy")
    if measured is None:
        return None
    return measured["reward"] if measured["accuracy"] is None else measured["accuracy"]


def _due(rollout: int, every: int | None) -> bool:
    return every is not None and rollout % every == 0
