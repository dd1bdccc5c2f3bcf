"""The costs of the paper, one file each: every class here declares itself and reads probes."""

from __future__ import annotations

from lightning_costs.indicators import (
    carbon_and_money,
    clocks,
    compute,
    counts,
    energy,
    idle,
    inference,
    lost,
    memory,
    parameters,
    pipeline,
    throughput,
)
from lightning_costs.indicators.base import Indicator

#: In the order of the columns: what people look for first, then diagnostics.
_DEFAULT: tuple[type[Indicator], ...] = (
    *(clocks.TotalS, clocks.TrainS, clocks.RunS, clocks.SetupS, clocks.EvaluateS, clocks.CheckpointS, clocks.OtherS),
    clocks.DataWaitS,
    idle.H2dS,
    clocks.DeviceS,
    *(counts.Samples, counts.Tokens, counts.PaddingTokens, counts.Steps, counts.OptimizerSteps, counts.Batches),
    *(counts.Epochs, counts.DatasetSamples),
    *(throughput.SamplesPerS, throughput.SamplesPerDevicePerS, throughput.TokensPerS, throughput.StepP50S),
    *(throughput.StepP95S, throughput.StepMaxS),
    *(idle.IdleS, idle.IdleFraction),
    *(pipeline.BubbleS, pipeline.BubbleFraction),
    *(compute.Flop, compute.ModelFlop, compute.Mac, compute.FlopPerS, compute.MfuFraction, compute.HfuFraction),
    *(compute.MemAccessBytes, compute.OpCalls, compute.ForwardFlop, compute.ForwardMac, compute.ActivationElements),
    *(parameters.Params, parameters.TrainableParams, parameters.SharedParams, parameters.EmbeddingParams),
    *(parameters.ActiveParams, parameters.NonzeroParams),
    *(memory.ParamBytes, memory.GradBytes, memory.MasterBytes, memory.OptStateBytes, memory.OptPeakBytes),
    *(memory.ActivationBytes, memory.PeakForwardBytes, memory.PeakBackwardBytes, memory.PeakOptimizerBytes),
    *(memory.PeakMemBytes, memory.ReservedBytes, memory.HostRssBytes),
    *(energy.EnergyJ, energy.GpuEnergyJ, energy.CpuEnergyJ, energy.RamEnergyJ, energy.TrainEnergyJ),
    *(energy.EvaluateEnergyJ, energy.CheckpointEnergyJ, energy.OtherEnergyJ, energy.SetupEnergyJ, energy.SampleEnergyJ),
    energy.TokenEnergyJ,
    *(carbon_and_money.Co2eG, carbon_and_money.CloudUsd, carbon_and_money.ElectricityUsd),
    *(inference.InferLatencyP50S, inference.InferLatencyP95S, inference.InferSamplesPerS, inference.InferEnergyJ),
    inference.InferPeakMemBytes,
    *(clocks.OverheadS, clocks.Devices, clocks.Nodes, clocks.NodeS),
    *(throughput.SteadyS, throughput.SteadySamples, throughput.SteadyTokens),
    *(idle.TimedS, idle.IdleDataS, idle.H2dDeviceS, idle.RankMaxIdleFraction),
    *(clocks.RankMaxDataWaitS, clocks.RankMaxLeadS),
    idle.RankMaxH2dS,
    *(pipeline.BubbleTheoryFraction, pipeline.StageStepS, pipeline.StageBusyS, pipeline.StageOutsideS),
    *(compute.SteadyFlop, compute.SteadyModelFlop, compute.EvaluateFlop, compute.PeakFlopPerS),
    *(memory.RankMaxParamBytes, memory.RankMaxGradBytes, memory.RankMaxMasterBytes, memory.RankMaxOptStateBytes),
    memory.RankMaxOptPeakBytes,
    *(lost.LostS, lost.LostSamples, lost.LostFlop, lost.LostEnergyJ),
)


def default_indicators() -> list[Indicator]:
    """New instances of every cost that this package measures; add your own to the list.

    Example:
        >>> [i.name for i in default_indicators()][:3]
        ['total_s', 'train_s', 'run_s']
    """
    return [kind() for kind in _DEFAULT]
