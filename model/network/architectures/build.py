"""How an architecture is built from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from model.config import ModelConfig
from model.network.architectures.aitm import AITM
from model.network.architectures.base import Architecture
from model.network.architectures.cross_stitch import CrossStitch
from model.network.architectures.mmoe import MMoE, OMoE
from model.network.architectures.ple import CGC, PLE
from model.network.architectures.separate import L2Constrained, SeparateBottoms
from model.network.architectures.shared_bottom import SharedBottom
from model.network.layers import StackedLinear, StackedMLP


def build_stack(config: ModelConfig, k: int, width: int, units: Sequence[int]) -> StackedMLP:
    """Build k parallel networks with these hidden layers and the configured activation, dropout and normalisation."""
    return StackedMLP(
        k, width, units, activation=config.activation, dropout=config.dropout, batch_norm=config.batch_norm
    )


def build_architecture(config: ModelConfig, width: int, tasks: int) -> Architecture:
    """Build the configured architecture for inputs of this width, with fresh weights."""
    return _BUILDERS[config.architecture](config, width, tasks)


def _build_separate(config: ModelConfig, width: int, tasks: int) -> Architecture:
    return SeparateBottoms(build_stack(config, tasks, width, config.expert_units))


def _build_shared_bottom(config: ModelConfig, width: int, tasks: int) -> Architecture:
    return SharedBottom(build_stack(config, 1, width, config.expert_units), tasks=tasks)


def _build_l2_constrained(config: ModelConfig, width: int, tasks: int) -> Architecture:
    return L2Constrained(build_stack(config, tasks, width, config.expert_units), alpha=config.l2_constraint)


def _build_cross_stitch(config: ModelConfig, width: int, tasks: int) -> Architecture:
    widths = pairwise([width, *config.expert_units])
    layers = [build_stack(config, tasks, width_in, [width_out]) for width_in, width_out in widths]
    return CrossStitch(layers, tasks=tasks, width=width)


def _build_gates(config: ModelConfig, width: int, gates: int, experts: int) -> nn.Module:
    hidden = build_stack(config, gates, width, config.gate_units)
    return nn.Sequential(hidden, StackedLinear(gates, hidden.out_features, experts))


def _build_mmoe(config: ModelConfig, width: int, tasks: int) -> Architecture:
    experts = build_stack(config, config.experts, width, config.expert_units)
    return MMoE(experts=experts, gates=_build_gates(config, width, tasks, config.experts))


def _build_omoe(config: ModelConfig, width: int, tasks: int) -> Architecture:
    experts = build_stack(config, config.experts, width, config.expert_units)
    return OMoE(experts=experts, gates=_build_gates(config, width, 1, config.experts), tasks=tasks)


def _build_ple(config: ModelConfig, width: int, tasks: int) -> Architecture:
    levels = []
    total = tasks * config.task_experts + config.experts
    for level in range(config.levels):
        shared_gate = level < config.levels - 1
        experts = build_stack(config, total, width, config.expert_units)
        gates = _build_gates(config, width, tasks + shared_gate, total)
        levels.append(CGC(experts=experts, gates=gates, tasks=tasks, own=config.task_experts, shared_gate=shared_gate))
        width = experts.out_features
    return PLE(levels)


def _build_aitm(config: ModelConfig, width: int, tasks: int) -> Architecture:
    bottoms = build_stack(config, tasks, width, config.expert_units)
    transfer = partial(StackedLinear, tasks - 1, bottoms.out_features)
    return AITM(
        bottoms=bottoms,
        transfer=transfer(bottoms.out_features),
        project=transfer(3 * bottoms.out_features),
        calibrator_weight=config.calibrator_weight,
    )


_BUILDERS: dict[str, Callable[[ModelConfig, int, int], Architecture]] = {
    "single_task": _build_separate,
    "shared_bottom": _build_shared_bottom,
    "l2_constrained": _build_l2_constrained,
    "cross_stitch": _build_cross_stitch,
    "omoe": _build_omoe,
    "mmoe": _build_mmoe,
    "ple": _build_ple,
    "aitm": _build_aitm,
    "esmm": _build_separate,
}
