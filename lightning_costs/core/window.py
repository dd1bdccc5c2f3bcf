"""The open window: integers and one clock read a step, until somebody closes it into a sample."""

from __future__ import annotations

from array import array

from lightning_costs.core.accounts import PARTS, Accounts
from lightning_costs.core.records import StepSample, Trigger


class Window:
    """Adds up what a training loop does between two emissions.

    Args:
        accounts: The run's accounts; their clock is the window's.
    """

    __slots__ = (
        "_accounts",
        "_batches",
        "_closed",
        "_closed_s",
        "_epochs",
        "_optimizer_steps",
        "_samples",
        "_since_step",
        "_steady",
        "_step_times_s",
        "_steps",
        "_tokens",
        "_train_s",
        "overhead_s",
    )

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._closed = dict.fromkeys(accounts.read(), 0.0)
        self._closed_s = 0.0
        self._train_s = accounts.train_s()
        #: Samples, tokens and warmth of the batches since the last optimizer step.
        self._since_step: tuple[int | None, int | None, bool] = (0, 0, False)
        self.overhead_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self._batches = self._steps = self._optimizer_steps = self._epochs = 0
        self._samples: int | None = 0
        self._tokens: int | None = 0
        self._steady: tuple[float, int, int | None, int | None] = (0.0, 0, 0, 0)
        self._step_times_s = array("d")

    def start_clock(self) -> None:
        """The next step begins now: training seconds before it are nobody's step."""
        self._train_s = self._accounts.train_s()

    def batch(
        self,
        *,
        samples: int | None,
        tokens: int | None,
        optimizer_steps: int,
        warm: bool,
    ) -> bool | None:
        """Note a batch at its end.

        Args:
            samples: In this batch; None where it would not tell.
            tokens: In this batch; None where nobody counts them.
            optimizer_steps: Optimizer calls in this batch; 0 while gradients accumulate.
            warm: The batch is warm-up: in the totals, out of the rates.

        Returns:
            Whether the step that ended with this batch counts for the rates; None where none ended.
        """
        self._batches += 1
        self._samples = None if self._samples is None or samples is None else self._samples + samples
        self._tokens = None if self._tokens is None or tokens is None else self._tokens + tokens
        held_samples, held_tokens, held_warm = self._since_step
        held_samples = None if held_samples is None or samples is None else held_samples + samples
        held_tokens = None if held_tokens is None or tokens is None else held_tokens + tokens
        held_warm = held_warm or warm
        if not optimizer_steps:
            self._since_step = (held_samples, held_tokens, held_warm)
            return None
        self._since_step = (0, 0, False)
        self._steps += 1
        self._optimizer_steps += optimizer_steps
        train_s = self._accounts.train_s()
        took_s, self._train_s = train_s - self._train_s, train_s
        if not held_warm:
            steady_s, steps, steady_samples, steady_tokens = self._steady
            self._steady = (
                steady_s + took_s,
                steps + 1,
                None if steady_samples is None or held_samples is None else steady_samples + held_samples,
                None if steady_tokens is None or held_tokens is None else steady_tokens + held_tokens,
            )
            self._step_times_s.append(took_s)
        return not held_warm

    def epoch(self) -> None:
        """Note that an epoch is complete."""
        self._epochs += 1

    @property
    def steady_step_s(self) -> float | None:
        """Mean duration of the window's steps outside warm-up so far, in seconds."""
        steady_s, steps, _, _ = self._steady
        return steady_s / steps if steps else None

    def close(self, *, step: int, epoch: int, trigger: Trigger) -> StepSample:
        """The window as a sample; the next one begins at the same clock reading."""
        spent = self._accounts.read()
        part = {name: spent[name] - self._closed[name] for name in spent}
        accounts_s = {name: seconds for name, seconds in part.items() if name not in PARTS}
        for name, account in PARTS.items():
            accounts_s[account] += part[name]
        length_s = sum(accounts_s.values())
        steady_s, steady_steps, steady_samples, steady_tokens = self._steady
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
            steady_s=steady_s,
            steady_steps=steady_steps,
            steady_samples=steady_samples,
            steady_tokens=steady_tokens,
            step_times_s=tuple(self._step_times_s),
            overhead_s=self.overhead_s,
        )
        self._closed, self._closed_s = spent, sample.ended_s
        self.overhead_s = 0.0
        self._reset()
        return sample
