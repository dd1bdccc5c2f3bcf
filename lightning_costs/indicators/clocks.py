"""Where the time went: accounts, the training, run and total clocks, and device-seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from lightning_costs.indicators.base import Derived, FromSample, Measured, rank_max
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import StepSample


class _Clock(Measured):
    """Rank 0's own clock: never a maximum per account, which would add up to more than the wall."""

    name, unit, kind, family = "clock_s", "s", "counter", "time"
    scope, across = "job", "rank0"
    #: Accounts whose seconds this clock shows.
    accounts: ClassVar[tuple[str, ...]] = ()

    def read(self, sample: StepSample) -> float:
        seconds = 0.0
        for account in self.accounts:
            seconds += sample.accounts_s[account]
        return seconds


@final
class SetupS(_Clock):
    """From the run's start to the fit loop: imports, data preparation, building the model."""

    name, label, role = "setup_s", "setup time", "diagnostic"
    accounts = ("setup",)


@final
class TrainS(_Clock):
    """The training clock: waiting for data, steps, compilation, weight averaging."""

    name, label, headline = "train_s", "training time", True
    accounts = ("train",)


@final
class EvaluateS(_Clock):
    """Validation during the fit."""

    name, label, role = "evaluate_s", "evaluation time", "diagnostic"
    accounts = ("evaluate",)


@final
class CheckpointS(_Clock):
    """Saving checkpoints."""

    name, label, role = "checkpoint_s", "checkpoint time", "diagnostic"
    accounts = ("checkpoint",)


@final
class OtherS(_Clock):
    """Logging, other callbacks, sanity checks, finders, and what follows the end of training."""

    name, label, role = "other_s", "other time", "diagnostic"
    accounts = ("other",)


@final
class RunS(_Clock):
    """The run clock: everything but setup."""

    name, label = "run_s", "run time"
    accounts = ("train", "evaluate", "checkpoint", "other")


@final
class TotalS(_Clock):
    """The total clock: setup too, and every earlier attempt of the run."""

    name, label, headline = "total_s", "total time", True
    accounts = ("setup", "train", "evaluate", "checkpoint", "other")


@final
class DataWaitS(FromSample):
    """Host seconds waiting for the next batch: a part of `train_s`."""

    name, unit, kind, family = "data_wait_s", "s", "counter", "time"
    scope, across, role, label, field = "job", "rank0", "diagnostic", "waiting for data", "data_wait_s"
    lacking = (
        "no waiting for a batch was seen: wrap the loader by recorder.wrap_loader(loader), in Fabric set it up by "
        "setup_dataloaders, with Accelerate prepare it"
    )

    def open(self, setting: ProbeContext) -> None:
        self._accounts = setting.accounts

    def read(self, sample: StepSample) -> float:
        if sample.batches and self._accounts is not None and not self._accounts.waits_are_reported:
            raise Missing(self.lacking)
        return super().read(sample)


RankMaxDataWaitS = rank_max(DataWaitS, "waiting for data, the worst rank")


@final
class RankMaxLeadS(FromSample):
    """Host seconds from having a batch to its first backward pass, of the rank with most of them.

    What a rank does by itself before gradients are exchanged: the others wait there for the slowest.
    """

    name, unit, kind, family = "rank_max_lead_s", "s", "counter", "time"
    across, role, label = "max", "diagnostic", "before the backward pass, the worst rank"
    field, lacking = "lead_s", "needs several processes that train under an integration of a framework"


@final
class StragglerS(Measured):
    """What other ranks waited for a straggler, at least: its own work beyond the median of theirs, while it is one."""

    name, unit, kind, family = "straggler_s", "s", "counter", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "waiting for stragglers"

    def open(self, setting: ProbeContext) -> None:
        if len(setting.places) == 1:
            raise Missing("needs several processes: one waits for no other")
        self.method = (
            "own work of all ranks in blocks of the same steps, tested by ranks; waiting in other ranks is more"
        )

    def read(self, sample: StepSample) -> float:
        """Nothing on a rank by itself: rank 0 adds what the comparison of all ranks shows."""
        return 0.0


@final
class OverheadS(FromSample):
    """What measuring cost: a memo, contained in the accounts. A census step's part is an estimate."""

    name, unit, kind, family = "overhead_s", "s", "counter", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "measuring overhead"

    method = (
        "opening and points timed, a census step counts with its excess over a mean step; "
        "the tens of microseconds of every other step are not in it"
    )


class _Allocated(Measured):
    """What the job was given, as the setting has it under the column's name."""

    name, unit, kind, family = "devices", "devices", "gauge", "size"
    scope, across, role = "job", "rank0", "diagnostic"

    def open(self, setting: ProbeContext) -> None:
        self._number = float(getattr(setting, self.name))

    def read(self, sample: StepSample) -> float:
        return self._number


@final
class Devices(_Allocated):
    """Devices allocated to the job: accelerators, or nodes where a CPU trains."""

    name, label = "devices", "allocated devices"


@final
class Nodes(_Allocated):
    """Nodes allocated to the job."""

    name, unit, label = "nodes", "nodes", "allocated nodes"


@final
class DeviceS(Derived):
    """Allocated devices times total time (the paper's 'chips x time'), summed over attempts."""

    name, unit, kind, family = "device_s", "s", "counter", "time"
    label, headline = "device time", True
    needs = ("total_s", "devices")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return window["total_s"] * window["devices"]


@final
class NodeS(Derived):
    """Allocated nodes times total time, summed over attempts: what a price per node is taken of."""

    name, unit, kind, family = "node_s", "s", "counter", "time"
    label, role, needs = "node time", "diagnostic", ("total_s", "nodes")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return window["total_s"] * window["nodes"]
