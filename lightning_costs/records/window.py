"""The open window: integers and one clock read a step, until it is closed into a sample; slow steps."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from itertools import starmap
from statistics import median
from typing import final

from lightning_costs.records.samples import DeviceTime, StepSample, Trigger
from lightning_costs.records.time_buckets import PARTS, TimeBuckets

#: Durations that the median of a signature is taken of, and signatures that are told apart.
MOST_TIMES, MOST_SIGNATURES = 128, 64
#: Fewer steps of a signature have no median that is worth a comparison.
LEAST_TIMES = 3


@final
class SlowSteps:
    """Compares durations of steps with the median of the last ones of their signature.

    Example:
        >>> slow = SlowSteps()
        >>> slow.excess_s("a", [1.0, 1.0, 1.0, 3.0]), slow.excess_s("a", [1.0, 1.5])
        (2.0, 0.5)
    """

    __slots__ = ("_times_s", "_usual_s")

    def __init__(self) -> None:
        self._times_s: dict[Hashable, list[float]] = {}
        self._usual_s: dict[Hashable, float] = {}

    def excess_s(self, signature: Hashable, times_s: Sequence[float]) -> float:
        """Seconds above the median, added up over these steps; none of a signature that has hardly been seen."""
        recent = self._times_s.get(signature)
        if recent is None:
            if len(self._times_s) >= MOST_SIGNATURES:
                return 0.0
            recent = self._times_s[signature] = []
        self._usual_s.pop(signature, None)
        recent += times_s[-MOST_TIMES:]
        del recent[:-MOST_TIMES]
        if len(recent) < LEAST_TIMES:
            return 0.0
        usual_s = self._usual_s[signature] = median(recent)
        return sum([took_s - usual_s for took_s in times_s if took_s > usual_s])

    def usual_s(self, signature: Hashable) -> float | None:
        """The median of a signature's steps; None of one that has hardly been seen."""
        return self._usual_s.get(signature)


def _sum(total: int | None, amount: int | None) -> int | None:
    """A sum; unknown where a part of it is."""
    return None if total is None or amount is None else total + amount


def _times(amount: int | None, n: int) -> int | None:
    return None if amount is None else amount * n


class Window:
    """Adds up what a training loop does between two emissions."""

    __slots__ = (
        "_accounts",
        "_batches",
        "_closed",
        "_closed_s",
        "_epochs",
        "_held_batches",
        "_held_samples",
        "_held_tokens",
        "_held_warm",
        "_optimizer_steps",
        "_padding",
        "_samples",
        "_signatures",
        "_slow",
        "_slow_on_device",
        "_steady_s",
        "_steady_samples",
        "_steady_tokens",
        "_step_times_s",
        "_stepless",
        "_steps",
        "_tokens",
        "_train_s",
        "_waited_s",
        "_warm",
        "_warm_slow_s",
        "overhead_s",
    )

    def __init__(self, accounts: TimeBuckets) -> None:
        self._accounts = accounts
        self._closed = dict.fromkeys(accounts.read(), 0.0)
        self._closed_s = 0.0
        self._train_s = accounts.train_s()
        #: Batches since the last optimizer step, their samples and tokens, and whether one was warm-up.
        self._held_batches = 0
        self._held_samples: int | None = 0
        self._held_tokens: int | None = 0
        self._held_warm = False
        #: Whether there was a batch without an update.
        self._stepless = False
        self.overhead_s = 0.0
        self._slow, self._slow_on_device = SlowSteps(), SlowSteps()
        #: Signatures of the window's steps outside warm-up, each with the number of the first one of a row of it.
        self._signatures: list[tuple[Hashable, int]] = []
        #: Warm-up steps whose signature has no median yet, and what they took without waiting for data and hooks.
        self._warm: list[tuple[Hashable, float]] = []
        self._warm_slow_s = self._waited_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self._batches = self._steps = self._optimizer_steps = self._epochs = 0
        self._samples: int | None = 0
        self._tokens: int | None = 0
        self._padding: int | None = 0
        self._steady_s = 0.0
        self._steady_samples: int | None = 0
        self._steady_tokens: int | None = 0
        self._step_times_s = array("d")
        del self._signatures[:-1]
        if self._signatures:
            self._signatures[0] = (self._signatures[0][0], 0)

    def start_clock(self) -> None:
        """The next step begins now: training seconds before it belong to no step."""
        self._train_s = self._accounts.train_s()

    def add_batch(
        self,
        *,
        samples: int | None,
        tokens: int | None,
        optimizer_steps: int,
        warm: bool,
        padding: int | None = None,
        signature: Hashable = None,
    ) -> bool | None:
        """Note a batch at its end.

        Returns:
            Whether the step that ended with this batch counts for the rates; None if none ended.
        """
        self._batches += 1
        self._samples = _sum(self._samples, samples)
        self._tokens = _sum(self._tokens, tokens)
        self._padding = _sum(self._padding, padding)
        if self._held_batches:
            samples, tokens = _sum(self._held_samples, samples), _sum(self._held_tokens, tokens)
            warm = warm or self._held_warm
        if not optimizer_steps:
            self._held_samples, self._held_tokens, self._held_warm = samples, tokens, warm
            self._held_batches += 1
            self._stepless = True
            return None
        self._held_batches = 0
        self._steps += 1
        self._optimizer_steps += optimizer_steps
        train_s = self._accounts.train_s()
        took_s, self._train_s = train_s - self._train_s, train_s
        waited_s = self._accounts.data_wait_s() + self._accounts.hooks_s()
        if warm:
            if len(self._warm) < MOST_TIMES:
                self._warm.append((signature, took_s - (waited_s - self._waited_s)))
            self._waited_s = waited_s
            return False
        self._waited_s = waited_s
        self._steady_s += took_s
        self._steady_samples = _sum(self._steady_samples, samples)
        self._steady_tokens = _sum(self._steady_tokens, tokens)
        if not self._signatures or self._signatures[-1][0] != signature:
            self._signatures.append((signature, len(self._step_times_s)))
        self._step_times_s.append(took_s)
        return True

    def add_late_updates(self, calls: int) -> None:
        """Note updates after the last batch; a step, unless each batch had one of its own."""
        self._optimizer_steps += calls
        self._steps += self._stepless
        self._held_batches = 0

    def add_repeated(
        self, train_s: Sequence[float], *, samples: int | None, tokens: int | None, padding: int | None, calls: int
    ) -> None:
        """Note steps outside warm-up, all alike: what `train` held at the end of each, and what is in one."""
        n = len(train_s)
        if n and not self._signatures:
            self._signatures.append((None, len(self._step_times_s)))
        self._batches += n
        self._steps += n
        self._optimizer_steps += n * calls
        self._samples = _sum(self._samples, _times(samples, n))
        self._tokens = _sum(self._tokens, _times(tokens, n))
        self._padding = _sum(self._padding, _times(padding, n))
        self._steady_samples = _sum(self._steady_samples, _times(samples, n))
        self._steady_tokens = _sum(self._steady_tokens, _times(tokens, n))
        for ended_s in train_s:
            took_s, self._train_s = ended_s - self._train_s, ended_s
            self._steady_s += took_s
            self._step_times_s.append(took_s)

    @property
    def empty(self) -> bool:
        """Whether no batch was noted since the window was opened."""
        return not self._batches

    def add_epoch(self) -> None:
        """Note that an epoch is complete."""
        self._epochs += 1

    @property
    def steady_step_s(self) -> float | None:
        """Mean duration of the window's steps outside warm-up so far, in seconds."""
        steps = len(self._step_times_s)
        return self._steady_s / steps if steps else None

    def _excess_s(self) -> float:
        """Seconds of the window's steps above the median of their signature."""
        if not self._signatures:
            return 0.0
        ends = [first for _, first in self._signatures[1:]] + [len(self._step_times_s)]
        return sum(
            self._slow.excess_s(signature, self._step_times_s[first:end])
            for (signature, first), end in zip(self._signatures, ends, strict=True)
            if end > first
        )

    def _warm_excess_s(self) -> float:
        """Seconds of warm-up steps above the median of their signature, of those that are known by now."""
        excess_s, later = 0.0, []
        for signature, took_s in self._warm:
            usual_s = self._slow.usual_s(signature)
            if usual_s is None:
                later.append((signature, took_s))
            else:
                excess_s += max(0.0, took_s - usual_s)
        self._warm = later
        return excess_s

    def device_slow_s(self, device: DeviceTime) -> float:
        """`slow_s` by a device's own events: what each step was busy, above the median of its signature."""
        by_signature: dict[Hashable, list[float]] = {}
        for signature, busy_s in device.busy:
            by_signature.setdefault(signature, []).append(busy_s)
        return sum(starmap(self._slow_on_device.excess_s, by_signature.items()), self._warm_slow_s)

    def close(self, *, step: int, epoch: int, trigger: Trigger) -> StepSample:
        """The window as a sample; the next one begins at the same clock reading."""
        spent = self._accounts.read()
        part = {name: spent[name] - self._closed[name] for name in spent}
        accounts_s = {name: seconds for name, seconds in part.items() if name not in PARTS}
        for name, account in PARTS.items():
            accounts_s[account] += part[name]
        length_s = sum(accounts_s.values())
        excess_s = self._excess_s()
        self._warm_slow_s = self._warm_excess_s()
        sample = StepSample(
            step=step,
            epoch=epoch,
            trigger=trigger,
            begun_s=self._closed_s,
            ended_s=self._closed_s + length_s,
            accounts_s=accounts_s,
            data_wait_s=part["data_wait"],
            h2d_s=part["h2d"],
            steps=self._steps,
            optimizer_steps=self._optimizer_steps,
            batches=self._batches,
            epochs=self._epochs,
            samples=self._samples,
            tokens=self._tokens,
            padding_tokens=self._padding,
            steady_s=self._steady_s,
            steady_samples=self._steady_samples,
            steady_tokens=self._steady_tokens,
            step_times_s=tuple(self._step_times_s),
            overhead_s=self.overhead_s,
            restore_s=part["restore"] if self._accounts.restores_are_reported else None,
            slow_s=max(0.0, excess_s - part["data_wait"]) + self._warm_slow_s,
        )
        self._closed, self._closed_s = spent, sample.ended_s
        self.overhead_s = 0.0
        self._reset()
        return sample
