"""Objectives and estimators by name: what papers bring along, what fits, what is refused."""

import math
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
import torch
import yaml

from unmask import objectives
from unmask.config import AdvantageConfig, TrainConfig, TrainingConfig
from unmask.estimators import (
    ELBO,
    ESTIMATORS,
    Block,
    CoupledTime,
    DrawContext,
    LeftToRight,
    OneStep,
    Quadrature,
    SpacedTime,
    TimeUniform,
    Trajectory,
)
from unmask.objectives import (
    AGRPO,
    BGPO,
    DMPO,
    ESPO,
    GDPO,
    GDSD,
    OBJECTIVES,
    SPG,
    VRPO,
    WD1,
    AStarPO,
    CoupledGRPO,
    DiffuGRPO,
    Divergence,
    JustGRPO,
    TraceRL,
    UniGRPO,
    VRPOOnline,
)
from unmask.recipe import to_yaml, validate
from unmask.sampling.settings import Sampler


def make_estimator(settings):
    return ESTIMATORS[settings["name"]](**{k: v for k, v in settings.items() if k != "name"})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_papers_estimator_and_advantage_exist_and_fit(name):
    objective = OBJECTIVES[name]()
    assert {"estimator"} <= set(objective.paper)
    assert set(objective.paper) <= {"estimator", "advantage", "training", "sampler"}
    estimator = make_estimator(objective.paper["estimator"])
    objective.check(estimator)
    AdvantageConfig(**objective.paper.get("advantage", {}))
    TrainingConfig(**objective.paper.get("training", {}))
    Sampler(**objective.paper.get("sampler", {}))
    if objective.rollout_estimator is not None:
        make_estimator(objective.rollout_estimator)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_choosing_an_objective_in_a_recipe_brings_its_paper_along(name):
    config = validate(TrainConfig, {"objective": {"name": name}})
    assert config.objective == OBJECTIVES[name]()
    assert config.estimator == make_estimator(config.objective.paper["estimator"])
    given = config.objective.paper.get("advantage", {})
    assert {key: getattr(config.advantage, key) for key in given} == given


def test_nested_settings_are_read_and_written_in_recipes():
    raw = {
        "objective": {
            "name": "tracerl",
            "divergence": {"kind": "kl", "delta": 0.02},
            "pass_rate": [0.2, 0.8],
        }
    }
    config = validate(TrainConfig, raw)
    divergence = Divergence("kl", delta=0.02)
    assert config.objective == TraceRL(divergence=divergence, pass_rate=(0.2, 0.8))
    again = validate(TrainConfig, yaml.safe_load(to_yaml(config)))
    assert again == config
    with pytest.raises(ValueError, match="did you mean delta"):
        validate(TrainConfig, {"objective": {"name": "espo", "divergence": {"delt": 1}}})


def test_every_objective_can_be_imported_by_its_class_name():
    for kind in OBJECTIVES.values():
        assert getattr(objectives, kind.__name__) is kind
        assert kind.__name__ in objectives.__all__
    assert len(set(OBJECTIVES.values())) == len(OBJECTIVES) == 16


def test_objectives_and_estimators_are_loaded_without_torch():
    script = (
        "import sys, unmask.objectives as o, unmask.estimators as e;"
        "[kind() for kind in (*o.OBJECTIVES.values(), *e.ESTIMATORS.values())];"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_setting_has_a_default_and_a_doc(name):
    kind = OBJECTIVES[name]
    for field in fields(kind):
        assert field.default is not MISSING
        assert f"\n        {field.name}: " in kind.__doc__


def test_what_needs_the_draws_of_a_sequence_together_says_so():
    inseparable = {ESPO, SPG, GDPO, VRPOOnline, AStarPO, VRPO}
    assert {kind for kind in OBJECTIVES.values() if not kind.separable} == inseparable


def test_what_the_trainer_must_provide_is_declared():
    unaware = {kind for kind in OBJECTIVES.values() if not kind.needs_old}
    assert unaware == {WD1, SPG, DMPO, AStarPO, VRPO}
    needing = {kind for kind in OBJECTIVES.values() if kind().needs_reference}
    assert needing == {ESPO, DiffuGRPO, CoupledGRPO, UniGRPO, GDSD, AStarPO, VRPO}
    assert {kind for kind in OBJECTIVES.values() if kind.sampling_logprobs} == {AGRPO}
    assert {kind for kind in OBJECTIVES.values() if kind.rollout_estimator} == {DMPO}
    assert {kind for kind in OBJECTIVES.values() if kind().value_samples} == {AStarPO}
    assert {kind for kind in OBJECTIVES.values() if kind.offline} == {VRPO}
    assert {kind for kind in OBJECTIVES.values() if kind.pairwise} == {VRPO}
    assert {kind for kind in OBJECTIVES.values() if not kind.grouped} == {AStarPO}


FITTING = [
    (SPG(), ELBO(num_mc=2)),
    (SPG(variant="elbo"), OneStep()),
    (SPG(variant="zero"), Block(num_mc=1)),
    (SPG(), Trajectory(num_mc=None)),
    (AGRPO(), LeftToRight()),
    (TraceRL(), Trajectory(num_mc=8)),
    (GDSD(), ELBO(num_mc=1)),
    (GDSD(), CoupledTime(full_view=False)),
    (ESPO(), TimeUniform()),
    (BGPO(), OneStep()),
    (AStarPO(), ELBO(num_mc=4, stratified=False)),
    (VRPO(), OneStep()),
]
UNFIT = [
    (SPG(), Block(num_mc=1), "set estimator.num_mc=2 or objective.variant=elbo"),
    (SPG(variant="eubo"), OneStep(), "objective.variant=eubo with a single draw"),
    (AGRPO(), ELBO(), "set estimator.name=trajectory"),
    (TraceRL(), OneStep(), "set estimator.name=trajectory"),
    (JustGRPO(), Trajectory(), "set estimator.name=left_to_right"),
    (GDSD(), ELBO(coupled=False), "set estimator.coupled=true"),
    (GDSD(), Quadrature(), "set estimator.name=elbo"),
    (GDSD(), CoupledTime(), "set estimator.full_view=false"),
    (AStarPO(), Block(num_mc=2), "views of a completion take different blocks"),
    (AStarPO(), ELBO(num_mc=2), "set estimator.stratified=false"),
    (AStarPO(), TimeUniform(num_mc=3), "an even estimator.num_mc"),
    (AStarPO(), OneStep(), "an even estimator.num_mc"),
    (AStarPO(), Trajectory(num_mc=None, stratified=False), "an even estimator.num_mc"),
    (AStarPO(), Quadrature(num_mc=2), "set estimator.name=elbo"),
    (VRPO(), Trajectory(), "there is no step_map"),
    (VRPO(), LeftToRight(), "there is no step_map"),
]


@pytest.mark.parametrize(("objective", "estimator"), FITTING)
def test_an_estimator_that_fits_passes(objective, estimator):
    assert objective.check(estimator) is None


@pytest.mark.parametrize(("objective", "estimator", "message"), UNFIT)
def test_an_estimator_that_does_not_fit_is_refused_with_a_remedy(objective, estimator, message):
    with pytest.raises(ValueError, match=message):
        objective.check(estimator)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BGPO, {"epsilon": -0.1}, "epsilon=-0.1 is negative"),
        (DiffuGRPO, {"beta": -1.0}, "beta=-1.0 is negative"),
        (ESPO, {"epsilon": math.nan}, "epsilon=nan is no finite number"),
        (GDSD, {"beta": math.inf}, "beta=inf is no finite number"),
        (DMPO, {"alpha": math.nan}, "alpha=nan is no finite number"),
        (SPG, {"power": math.nan}, "power=nan is too small"),
        (Divergence, {"delta": math.nan}, "delta=nan is too small"),
        (CoupledGRPO, {"epsilon": -1.0}, "epsilon=-1.0 is negative"),
        (UniGRPO, {"epsilon_high": -1.0}, "epsilon_high=-1.0 is negative"),
        (AGRPO, {"beta": -1.0}, "beta=-1.0 is negative"),
        (JustGRPO, {"epsilon": -1.0}, "epsilon=-1.0 is negative"),
        (TraceRL, {"pass_rate": (0.8, 0.2)}, r"pass_rate=\[0.8, 0.2\] is no range"),
        (TraceRL, {"beta": -1.0}, "beta=-1.0 is negative"),
        (WD1, {"psi": 0.0}, "psi=0.0 is too small: it must be above 0"),
        (WD1, {"reduction": "max"}, "reduction='max' is unknown: choose sum or mean"),
        (SPG, {"variant": "both"}, "choose elbo, eubo, mix or zero"),
        (SPG, {"omega": 1.5}, "omega=1.5 is no share"),
        (SPG, {"power": 0.5}, "power=0.5 is too small"),
        (DMPO, {"alpha": 0.0}, "alpha=0.0 is too small: it must be above 0"),
        (GDPO, {"form": "both"}, "form='both' is unknown: choose released or paper"),
        (GDPO, {"beta": -1.0}, "beta=-1.0 is negative"),
        (GDSD, {"variant": "x"}, "variant='x' is unknown: choose gdsd or gdsd_tlc"),
        (GDSD, {"epsilon": 1.0}, "epsilon=1.0 is out of range"),
        (GDSD, {"psi": -1.0}, "psi=-1.0 is negative"),
        (AStarPO, {"beta": 0.0}, "beta=0.0 is too small: it must be above 0"),
        (AStarPO, {"value_beta": 0.0}, "value_beta=0.0 is too small"),
        (AStarPO, {"num_values": 0}, "num_values=0 is too small"),
        (VRPO, {"beta": 0.0}, "beta=0.0 is too small: it must be above 0"),
        (Quadrature, {"num_mc": 0}, "num_mc=0 is too small"),
        (CoupledTime, {"num_mc": 0}, "num_mc=0 is too small"),
        (CoupledTime, {"t_min": 0.0}, "t_min=0.0, t_max=0.8 are no range"),
        (CoupledTime, {"t_max": 1.1}, "t_min=0.2, t_max=1.1 are no range"),
        (Block, {"num_mc": 0}, "num_mc=0 is too small"),
        (Block, {"block_length": 0}, "block_length=0 is too small"),
        (Block, {"p_mask_context": 2.0}, "p_mask_context=2.0 is no probability"),
        (Trajectory, {"num_mc": 0}, "num_mc=0 is too small"),
        (Trajectory, {"shrink": 0}, "shrink=0 is too small"),
        (Trajectory, {"until": "end"}, "until='end' is unknown: choose text or first_eos"),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_updates_that_share_a_start_need_a_seed_that_they_share():
    nothing = torch.zeros(2, 4, dtype=torch.int64)
    context = DrawContext([0, 1], nothing[:, 0] + 4, nothing[:, 0], 4, nothing, num_updates=3)
    with pytest.raises(ValueError, match="give round_seeds, one per sequence"):
        SpacedTime().draw(context)
