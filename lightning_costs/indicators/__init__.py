"""The costs of the paper, one file each: every class here declares itself and reads probes."""

from __future__ import annotations

from lightning_costs.core.indicator import Indicator
from lightning_costs.indicators import (
    clocks,
    compute,
    counts,
    energy,
    memory,
    parameters,
    price,
    throughput,
)

_DEFAULT: tuple[type[Indicator], ...] = (
    clocks.TotalS,
    clocks.TrainS,
    clocks.RunS,
    clocks.SetupS,
    clocks.EvaluateS,
    clocks.CheckpointS,
    clocks.OtherS,
    clocks.DataWaitS,
    clocks.DeviceS,
    counts.Samples,
    counts.Tokens,
    counts.Steps,
    counts.OptimizerSteps,
    counts.Batches,
    counts.Epochs,
    counts.DatasetSamples,
    throughput.SamplesPerS,
    throughput.SamplesPerDevicePerS,
    throughput.TokensPerS,
    throughput.StepP50S,
    throughput.StepP95S,
    throughput.StepMaxS,
    compute.Flop,
    compute.Mac,
    compute.FlopPerS,
    compute.OpCalls,
    parameters.Params,
    parameters.TrainableParams,
    memory.ParamBytes,
    memory.GradBytes,
    memory.OptStateBytes,
    memory.OptPeakBytes,
    memory.PeakMemBytes,
    memory.ReservedBytes,
    memory.HostRssBytes,
    energy.EnergyJ,
    energy.GpuEnergyJ,
    energy.CpuEnergyJ,
    energy.RamEnergyJ,
    price.Co2eG,
    price.CloudUsd,
    price.ElectricityUsd,
    clocks.OverheadS,
    clocks.Devices,
    clocks.Nodes,
    throughput.SteadyS,
    throughput.SteadySamples,
    throughput.SteadyTokens,
    compute.SteadyFlop,
)


def default_indicators() -> list[Indicator]:
    """New instances of every cost that this package measures; add your own to the list.

    Example:
        >>> [i.name for i in default_indicators()][:3]
        ['total_s', 'train_s', 'run_s']
    """
    return [kind() for kind in _DEFAULT]
