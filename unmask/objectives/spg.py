"""SPG: a lower bound where the likelihood should rise, an upper bound where it should fall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from unmask.likelihood import eubo, mean_over_views, view_means
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.estimators import Estimator

Variant = Literal["elbo", "eubo", "mix", "zero"]


@dataclass(frozen=True)
class SPG(Objective):
    """Sandwiched policy gradient (arXiv 2510.09541).

    loss = -sum_i A_i len_i est_i / sum_i len_i

    est_i = ELBO_i, the mean over views of the mean logp of scored tokens, where A_i >= 0; where
    A_i < 0 omega EUBO_i + (1 - omega) ELBO_i, see `unmask.likelihood.eubo`.

    Args:
        variant: mix; eubo and elbo are omega = 1 and omega = 0; zero learns nothing from A < 0.
        omega: share of the EUBO in mix.
        power: b of the EUBO; 1.0 on Sudoku.

    Raises:
        ValueError: for an unknown variant, an omega outside [0, 1] or a power below 1.
    """

    needs_old: ClassVar[bool] = False
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {
            "name": "block",
            "num_mc": 2,
            "p_mask_context": 0.15,
            "score_block_only": False,
        },
        "advantage": {"name": "group_mean"},
    }

    variant: Variant = "mix"
    omega: float = 0.5
    power: float = 1.5

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require_choice("variant", get_args(Variant))
        if not 0 <= self.omega <= 1:
            raise ValueError(f"omega={self.omega} is no share: give one in [0, 1]")
        if not self.power >= 1:
            raise ValueError(f"power={self.power} is too small: the EUBO needs at least 1")

    def check(self, estimator: Estimator) -> None:
        """Refuse fewer than two draws where the EUBO is used."""
        num_mc = getattr(estimator, "num_mc", 1)
        if self.variant in ("eubo", "mix") and num_mc is not None and num_mc < 2:
            raise ValueError(
                f"objective.variant={self.variant} with a single draw: the upper bound averages "
                "probabilities over draws, so set estimator.num_mc=2 or objective.variant=elbo"
            )

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with both bounds per token."""
        lower = mean_over_views(view_means(inputs.logp, inputs.scored), inputs.scored)
        metrics = {"elbo": Metric(lower.detach())}
        estimate = lower.where(inputs.advantages >= 0, self._falling(inputs, lower, metrics))
        weighted = inputs.advantages * inputs.lengths * estimate
        return ObjectiveOutput(-weighted.sum() / inputs.totals.lengths, metrics)

    def _falling(
        self, inputs: ObjectiveInputs, lower: Tensor, metrics: dict[str, Metric]
    ) -> Tensor:
        """The estimate [B] for A < 0."""
        if self.variant == "elbo":
            return lower
        if self.variant == "zero":
            return lower * 0
        upper = eubo(inputs.logp, inputs.scored, inputs.lengths, self.power)
        metrics["eubo"] = Metric(upper.detach())
        omega = 1.0 if self.variant == "eubo" else self.omega
        return omega * upper + (1 - omega) * lower
