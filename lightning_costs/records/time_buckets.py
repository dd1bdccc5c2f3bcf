"""Where the seconds go: every second of a run belongs to exactly one account."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

ACCOUNTS = ("setup", "train", "evaluate", "checkpoint", "other")
#: Parts of an account. `hooks` is what else would be `other` in the training loop of an asynchronous device.
PARTS = {"data_wait": "train", "h2d": "train", "hooks": "train", "restore": "setup"}
#: Accounts that `bucket` begins and ends rarely, for long: meters are read there.
METERED_BUCKETS = frozenset({"evaluate", "checkpoint"})


#: What the account `setup` is made of beside `restore`, in the order in which it happens.
STARTUP = {
    "imports": "imports",
    "script": "script",
    "distributed": "distributed init",
    "data": "data set-up",
    "model": "model set-up",
}


class TimeBuckets:
    """A stack of accounts on one clock: the top of the stack gets the time, one clock read per transition.

    Example:
        >>> now = iter([0.0, 3.0, 5.0, 6.0]).__next__
        >>> accounts = TimeBuckets(now, begun_s=now())
        >>> with accounts.bucket("evaluate"):
        ...     pass
        >>> accounts.read()["setup"], accounts.read.__doc__.split(".")[0]
        (4.0, 'Seconds so far by account and part; they add up to the time since the run began')
    """

    __slots__ = (
        "_claimed",
        "_clock",
        "_spent",
        "_stack",
        "asynchronous",
        "before_switch",
        "begun_s",
        "failed",
        "restores_are_reported",
        "seconds_by_source",
        "since_s",
        "startup_rest",
        "startup_s",
        "waits_are_reported",
    )

    def __init__(self, clock: Callable[[], float], begun_s: float) -> None:
        self._clock = clock
        self.begun_s = begun_s
        #: When the clock was read last: up to here every second is booked.
        self.since_s = begun_s
        self._stack = ["setup"]
        self._spent = dict.fromkeys((*ACCOUNTS, *PARTS), 0.0)
        #: Seconds by account and by whose they were (a callback, a logger), of those who were told apart.
        self.seconds_by_source: dict[tuple[str, str], float] = {}
        self._claimed = dict.fromkeys((*ACCOUNTS, *PARTS), 0.0)
        #: Whether a device trains on while the host is in other callbacks' hooks and loggers: a progress bar that shows
        #: the loss waits for the device there. Such seconds of the training loop are training's (the part `hooks`)
        #: until the device's timeline says in which of them it was idle.
        self.asynchronous = False
        #: Whether loading a checkpoint is booked as the part `restore`; else it is somewhere in `setup`.
        self.restores_are_reported = False
        #: Whether waiting for batches is booked as the part `data_wait`; else it is somewhere in `train`.
        self.waits_are_reported = False
        #: Seconds of `setup` by parts of `STARTUP`, as far as they are known, and the part that has the rest.
        self.startup_s: dict[str, float] = {}
        self.startup_rest = "script"
        #: Called before `METERED_BUCKETS` accounts begin and end, and where the stack is emptied: who meters by
        #: account.
        self.before_switch: Callable[[], None] | None = None
        #: Called when an internal exception is handled that would otherwise reach a user's function; without it, such
        #: exceptions are raised.
        self.failed: Callable[[], None] | None = None

    def _fail(self) -> None:
        """A clock failed while an exception is handled: measuring stops, and the measured code continues."""
        if self.failed is None:
            raise
        self.failed()

    def notify_transition(self) -> None:
        """A change of accounts that is rare enough for meters to be read at it is about to happen."""
        if self.before_switch is not None:
            self.before_switch()

    def _charge(self) -> float:
        now = self._clock()
        self._spent[self._stack[-1]] += now - self.since_s
        self.since_s = now
        return now

    @property
    def current(self) -> str:
        """The account that time goes to now."""
        return self._stack[-1]

    @property
    def root(self) -> str:
        """The account at the bottom of the stack: what the run is doing between interruptions."""
        return self._stack[0]

    @property
    def interrupted(self) -> bool:
        """Whether an evaluation or a checkpoint is going on."""
        return not METERED_BUCKETS.isdisjoint(self._stack)

    def _place(self, account: str) -> str:
        """Where seconds of an account are booked that begin now."""
        asynchronous = self.asynchronous and account == "other" and self._stack[-1] in ("train", "hooks")
        return "hooks" if asynchronous else account

    def enter(self, account: str) -> int:
        """Time goes to `account` from now on; the stack's depth before, for `exit`."""
        now = self._clock()
        self._spent[self._stack[-1]] += now - self.since_s
        self.since_s = now
        self._stack.append(account)
        if account == "data_wait":
            self.waits_are_reported = True
        return len(self._stack) - 1

    def exit(self, depth: int | None = None) -> None:
        """Time goes to the account below again; with a depth, everything above that is closed too."""
        now = self._clock()
        self._spent[self._stack[-1]] += now - self.since_s
        self.since_s = now
        del self._stack[max(1, len(self._stack) - 1 if depth is None else depth) :]

    def try_enter(self, account: str) -> int | None:
        """`enter` around a user's function: raises nothing; None if the clock failed."""
        try:
            return self.enter(account)
        except Exception:  # noqa: BLE001 - a clock of the package must not end the training
            self._fail()
            return None

    def try_exit(self, depth: int | None) -> None:
        """`exit` to the depth that `try_enter` gave; raises nothing."""
        if depth is None:
            return
        try:
            self.exit(depth)
        except Exception:  # noqa: BLE001 - as above
            self._fail()

    def book(self, part: str, seconds: float) -> None:
        """Seconds that passed before these buckets were made, and belong to a part of the account that has them."""
        self._charge()
        account = PARTS[part]
        seconds = min(seconds, self._spent[account])
        self._spent[account] -= seconds
        self._spent[part] += seconds

    def startup(self) -> dict[str, float]:
        """What `setup` was made of: parts of `STARTUP`, and `restore`. They add up to the account."""
        rest_s = self._spent["setup"] - sum(self.startup_s.values())
        found = {**self.startup_s, self.startup_rest: rest_s, "restore": self._spent["restore"]}
        return {name: seconds for name, seconds in found.items() if seconds > 0.0}

    def reset_to(self, account: str) -> None:
        """Empty the stack onto `account`: after an error, nothing that was open is still open."""
        self.notify_transition()
        self._charge()
        self._stack[:] = [account]

    def start_stop_hooks(
        self, account: str, begins: Callable[[], object], ends: Callable[[], object]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Two functions around something that belongs to `account` where training waits for it: one frame each."""
        clock, stack, spent = self._clock, self._stack, self._spent
        self.waits_are_reported |= account == "data_wait"

        def enter() -> None:
            begins()
            try:
                if stack[-1] == "train":
                    now = clock()
                    spent["train"] += now - self.since_s
                    self.since_s = now
                    stack.append(account)
            except Exception:  # noqa: BLE001 - a clock of the package must not end the training
                self._fail()

        def leave() -> None:
            try:
                if stack[-1] == account:
                    now = clock()
                    spent[account] += now - self.since_s
                    self.since_s = now
                    stack.pop()
            except Exception:  # noqa: BLE001 - as above
                self._fail()
            ends()

        return enter, leave

    def wrap(self, function: Callable[P, R], account: str, source: str) -> Callable[P, R]:
        """`function`, its seconds booked to `account` as whose they are: `bucket` in a single frame, for every step."""
        clock, stack, spent, claimed, by_whom_s = (
            self._clock,
            self._stack,
            self._spent,
            self._claimed,
            self.seconds_by_source,
        )
        key = (account, source)

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                now = clock()
                spent[stack[-1]] += now - self.since_s
                self.since_s = now
                depth = len(stack)
                place = self._place(account) if self.asynchronous else account
                stack.append(place)
                unclaimed_s = spent[place] - claimed[place]
            except Exception:  # noqa: BLE001 - a clock of the package must not end the training
                self._fail()
                return function(*args, **kwargs)
            try:
                return function(*args, **kwargs)
            finally:
                try:
                    now = clock()
                    spent[stack[-1]] += now - self.since_s
                    self.since_s = now
                    del stack[depth:]
                    seconds = spent[place] - claimed[place] - unclaimed_s
                    claimed[place] += seconds
                    by_whom_s[key] = by_whom_s.get(key, 0.0) + seconds
                except Exception:  # noqa: BLE001 - as above
                    self._fail()

        return call

    @contextmanager
    def bucket(self, account: str, source: str | None = None) -> Iterator[None]:
        """Book what happens inside to `account`, also when it raises; `seconds_by_source` reports it by `source`."""
        metered = account in METERED_BUCKETS
        if metered:
            self.notify_transition()
        place = self._place(account)
        depth = self.enter(place)
        unclaimed_s = self._spent[place] - self._claimed[place]
        try:
            yield
        finally:
            if metered:
                self.notify_transition()
            self.exit(depth)
            if source is not None:
                seconds = self._spent[place] - self._claimed[place] - unclaimed_s
                self._claimed[place] += seconds
                key = (account, source)
                self.seconds_by_source[key] = self.seconds_by_source.get(key, 0.0) + seconds

    def read(self) -> dict[str, float]:
        """Seconds so far by account and part; they add up to the time since the run began."""
        self._charge()
        return dict(self._spent)

    def train_s(self) -> float:
        """Seconds so far of the account `train`, its parts in it: one clock read."""
        spent, now = self._spent, self._clock()
        spent[self._stack[-1]] += now - self.since_s
        self.since_s = now
        return spent["train"] + spent["data_wait"] + spent["h2d"] + spent["hooks"]

    def work_s(self) -> float:
        """Seconds so far of the account `train` without its parts: work, and what the loop does beside it."""
        self.train_s()
        return self._spent["train"]

    def data_wait_s(self) -> float:
        """Seconds waited for data so far, without the waiting that is going on: no clock read."""
        return self._spent["data_wait"]

    def beside_s(self) -> float:
        """Seconds so far in which this process did not train on a batch, without what continues: no clock read."""
        spent = self._spent
        return spent["data_wait"] + spent["hooks"] + spent["other"] + spent["evaluate"] + spent["checkpoint"]

    def hooks_s(self) -> float:
        """Seconds of the part `hooks` so far, without those that continue: no clock read."""
        return self._spent["hooks"]
