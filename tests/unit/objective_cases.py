"""Two completions of two views and three tokens, with policy ratios that are easy to compute with.

Scored tokens and their weights, the probabilities under the current policy, and the ratios to the
old and to the reference policy; NaN stands where nothing may be read:

    completion 0   view 0: token 0 weighs 2, token 1 weighs 1      view 1: token 2 weighs 3
    completion 1   view 0: token 0 weighs 1                        view 1: tokens 1, 2 weigh 2, 4
"""

import math
from dataclasses import replace

import torch

from unmask.objectives import ObjectiveInputs, Totals

NAN = math.nan


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


WEIGHT = float64([[[2, 1, 0], [0, 0, 3]], [[1, 0, 0], [0, 2, 4]]])
PROBABILITY = float64([[[0.5, 0.25, NAN], [NAN, NAN, 0.5]], [[0.25, NAN, NAN], [NAN, 0.5, 0.125]]])
RATIO = float64([[[1.5, 0.5, NAN], [NAN, NAN, 1.1]], [[0.5, NAN, NAN], [NAN, 1.5, 0.9]]])
REF_RATIO = float64([[[2, 1, NAN], [NAN, NAN, 0.5]], [[1, NAN, NAN], [NAN, 2, 0.5]]])

# k3 of a ratio r: 1 / r - 1 + log(r).
K3_TWO, K3_HALF = math.log(2) - 0.5, 1 - math.log(2)


def case(
    *,
    weight=WEIGHT,
    probability=PROBABILITY,
    ratio=RATIO,
    ref_ratio=REF_RATIO,
    advantages=(2.0, -1.0),
    rewards=(1.0, 0.0),
    lengths=(3, 2),
    views_per_draw=1,
    totals=None,
    **others,
):
    """Inputs of an objective; log-probabilities are a leaf that wants a gradient."""
    logp = probability.log()
    counts = Totals(len(rewards), int((weight > 0).sum()), sum(lengths), len(rewards))
    return ObjectiveInputs(
        logp=logp.clone().requires_grad_(),
        old_logp=logp - ratio.log(),
        ref_logp=None if ref_ratio is None else logp - ref_ratio.log(),
        weight=weight,
        views_per_draw=views_per_draw,
        advantages=float64(advantages),
        rewards=float64(rewards),
        lengths=torch.tensor(lengths),
        canvas=weight.shape[-1],
        group_size=2,
        totals=counts if totals is None else totals,
        **others,
    )


def sequence_case(differences, ref_differences=None, **settings):
    """Inputs whose draws differ by the given d_ij [B, M] from the old and the reference policy."""
    weight = settings.setdefault("weight", WEIGHT)
    first = (weight > 0).double().argmax(-1, keepdim=True)

    def ratio(values):
        logs = torch.zeros_like(weight)
        return logs.scatter(
            -1, first, (float64(values)[..., None] / weight.gather(-1, first))
        ).exp()

    ref_ratio = None if ref_differences is None else ratio(ref_differences)
    return case(ratio=ratio(differences), ref_ratio=ref_ratio, **settings)


def derivative(objective, inputs, *, on_policy=False):
    """d loss / d logp [B, M, L]."""
    logp = inputs.logp.detach().clone().requires_grad_()
    old = logp.detach() if on_policy else inputs.old_logp
    loss = objective(replace(inputs, logp=logp, old_logp=old)).loss
    return torch.autograd.grad(loss, logp)[0]


def assert_close(actual, expected):
    if not isinstance(expected, torch.Tensor):
        expected = float64(expected)
    torch.testing.assert_close(actual.detach(), expected, rtol=1e-12, atol=1e-14)


def gradcheck(objective, inputs):
    """Whether the gradient is the derivative of the value, by finite differences in float64."""
    scored = inputs.scored

    def loss(values):
        logp = torch.zeros_like(inputs.logp).masked_scatter(scored, values)
        return objective(replace(inputs, logp=logp)).loss

    return torch.autograd.gradcheck(loss, inputs.logp.detach()[scored].requires_grad_())
