"""How big the model is."""

from __future__ import annotations

from typing import ClassVar, final

from torch.nn.parameter import is_lazy

from lightning_costs.core.indicator import Measured, Missing
from lightning_costs.core.records import StepSample
from lightning_costs.probes.setting import Setting


class _Params(Measured):
    name, unit, kind, family = "all_params", "params", "static", "size"
    scope, across = "job", "rank0"
    trainable_only: ClassVar[bool] = False

    def open(self, setting: Setting) -> None:
        if setting.module is None:
            raise Missing("no module was given: no parameters to count")
        self._module = setting.module

    def read(self, sample: StepSample) -> float:
        counted = 0
        for parameter in self._module.parameters():  # each shared parameter once
            if is_lazy(parameter):
                raise Missing("a lazy module has not seen its first batch")
            if parameter.requires_grad or not self.trainable_only:
                counted += int(getattr(parameter, "ds_numel", parameter.numel()))
        return float(counted)


@final
class Params(_Params):
    """Unique parameters: a tensor used in two places is one."""

    name, label, headline = "params", "parameters", True


@final
class TrainableParams(_Params):
    """Unique parameters that take gradients."""

    name, label, trainable_only = "trainable_params", "trainable parameters", True
