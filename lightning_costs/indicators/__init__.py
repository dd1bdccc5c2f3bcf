"""The costs of the paper, one file each: every class here declares itself and reads probes."""

from __future__ import annotations

from lightning_costs.core.indicator import Indicator
from lightning_costs.indicators import (
    clocks,
    compute,
    counts,
    energy,
    inference,
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
    counts.PaddingTokens,
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
    compute.ModelFlop,
    compute.Mac,
    compute.FlopPerS,
    compute.MfuFraction,
    compute.HfuFraction,
    compute.MemAccessBytes,
    compute.OpCalls,
    compute.ForwardFlop,
    compute.ForwardMac,
    compute.ActivationElements,
    parameters.Params,
    parameters.TrainableParams,
    parameters.SharedParams,
    parameters.EmbeddingParams,
    parameters.ActiveParams,
    parameters.NonzeroParams,
    memory.ParamBytes,
    memory.GradBytes,
    memory.OptStateBytes,
    memory.OptPeakBytes,
    memory.ActivationBytes,
    memory.PeakForwardBytes,
    memory.PeakBackwardBytes,
    memory.PeakOptimizerBytes,
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
    inference.InferLatencyP50S,
    inference.InferLatencyP95S,
    inference.InferSamplesPerS,
    inference.InferEnergyJ,
    inference.InferPeakMemBytes,
    clocks.OverheadS,
    clocks.Devices,
    clocks.Nodes,
    throughput.SteadyS,
    throughput.SteadySamples,
    throughput.SteadyTokens,
    compute.SteadyFlop,
    compute.SteadyModelFlop,
    compute.EvaluateFlop,
    compute.PeakFlopPerS,
)


def default_indicators() -> list[Indicator]:
    """New instances of every cost that this package measures; add your own to the list.

    Example:
        >>> [i.name for i in default_indicators()][:3]
        ['total_s', 'train_s', 'run_s']
    """
    return [kind() for kind in _DEFAULT]
