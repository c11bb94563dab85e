"""Objectives by name: one paper, one file."""

from unmask.objectives.agrpo import AGRPO
from unmask.objectives.astar_po import AStarPO
from unmask.objectives.base import (
    Metric,
    Objective,
    ObjectiveInputs,
    ObjectiveOutput,
    Totals,
)
from unmask.objectives.bgpo import BGPO
from unmask.objectives.coupled_grpo import CoupledGRPO
from unmask.objectives.diffu_grpo import DiffuGRPO
from unmask.objectives.dmpo import DMPO
from unmask.objectives.espo import ESPO
from unmask.objectives.gdpo import GDPO
from unmask.objectives.gdsd import GDSD
from unmask.objectives.justgrpo import JustGRPO
from unmask.objectives.spg import SPG
from unmask.objectives.tracerl import TraceRL
from unmask.objectives.trust_region import Divergence
from unmask.objectives.unigrpo import UniGRPO
from unmask.objectives.vrpo import VRPO
from unmask.objectives.vrpo_online import VRPOOnline
from unmask.objectives.wd1 import WD1

OBJECTIVES: dict[str, type[Objective]] = {
    "espo": ESPO,
    "bgpo": BGPO,
    "diffu_grpo": DiffuGRPO,
    "coupled_grpo": CoupledGRPO,
    "unigrpo": UniGRPO,
    "wd1": WD1,
    "spg": SPG,
    "agrpo": AGRPO,
    "gdpo": GDPO,
    "vrpo_online": VRPOOnline,
    "gdsd": GDSD,
    "dmpo": DMPO,
    "tracerl": TraceRL,
    "justgrpo": JustGRPO,
    "astar_po": AStarPO,
    "vrpo": VRPO,
}

__all__ = [
    "AGRPO",
    "BGPO",
    "DMPO",
    "ESPO",
    "GDPO",
    "GDSD",
    "OBJECTIVES",
    "SPG",
    "VRPO",
    "WD1",
    "AStarPO",
    "CoupledGRPO",
    "DiffuGRPO",
    "Divergence",
    "JustGRPO",
    "Metric",
    "Objective",
    "ObjectiveInputs",
    "ObjectiveOutput",
    "Totals",
    "TraceRL",
    "UniGRPO",
    "VRPOOnline",
]
