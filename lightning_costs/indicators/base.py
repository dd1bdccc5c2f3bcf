"""What an indicator is. One class in one file is a new one; a wrong declaration fails at import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, get_args

from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.declaration import Across, Better, Declaration, Family, Fold, Kind, Role, Scope
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample
from lightning_costs.records.units import validate_column_name

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "fold": get_args(Fold),
    "scope": get_args(Scope),
    "across": get_args(Across),
    "better": get_args(Better),
    "family": get_args(Family),
    "role": get_args(Role),
}


class Indicator(ABC):
    """A cost and how it folds. Subclass `Measured` or `Derived`, not this.

    Class attributes:
        name: Column name; ends in its unit.
        unit: One of `lightning_costs.records.units.UNITS`.
        kind: 'counter' (adds up), 'gauge' (a state), 'static' (one number for the run).
        fold: Over windows: 'sum', 'last' or 'max'. Counters sum; others default to 'last'.
        scope: Whom one reading speaks for: a rank, device, node, tensor-parallel group, replica, or the job.
        across: How owners join: 'sum', 'max', 'mean', or 'rank0' (rank 0's own reading).
        better: Which direction is cheaper.
        family: Indicators of one family tend to say the same; agreement is counted by family.
        role: 'indicator' takes part in rankings, 'diagnostic' does not.
        label: For people; defaults to the name.
        headline: Shown in progress bars, tables and callback metrics.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    kind: ClassVar[Kind]
    family: ClassVar[Family]
    fold: ClassVar[Fold]
    across: ClassVar[Across]
    scope: ClassVar[Scope] = "rank"
    better: ClassVar[Better] = "lower"
    role: ClassVar[Role] = "indicator"
    label: ClassVar[str]
    headline: ClassVar[bool] = False

    #: How a reading was got ('counter', 'model', ...); goes into the header when an instance sets it.
    method: str | None = None
    #: Half of the 95 % interval of the total (or of a static), as a share of it, if it is estimated from a sample.
    error: float | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if ABC in cls.__bases__:
            return
        for need in ("name", "unit", "kind", "family"):
            if not isinstance(getattr(cls, need, None), str):
                raise TypeError(f"indicator class {cls.__name__} must declare {need!r} as a class attribute")
        validate_column_name(cls.name, cls.unit)
        counter = cls.kind == "counter"
        if "fold" not in dir(cls):
            cls.fold = "sum" if counter else "last"
        if "across" not in dir(cls):
            cls.across = "sum" if counter else "max"
        if "label" not in vars(cls):
            cls.label = cls.name.replace("_", " ")
        for field, choices in _CHOICES.items():
            if (value := getattr(cls, field)) not in choices:
                raise TypeError(
                    f"indicator {cls.name!r}: {field}={value!r} is not one of {', '.join(map(repr, choices))}"
                )
        if counter != (cls.fold == "sum"):
            raise TypeError(
                f"indicator {cls.name!r}: a counter folds by 'sum' and nothing else does; "
                f"got kind={cls.kind!r} with fold={cls.fold!r}"
            )

    @classmethod
    def declaration(cls) -> Declaration:
        """What the run's header says of this column."""
        return Declaration(**{field.name: getattr(cls, field.name) for field in fields(Declaration)})


class Measured(Indicator, ABC):
    """A cost that each rank reads, once per window.

    Override `open` to take probes from the setting. Raise `Missing(reason)` there or in `read` if the cost cannot be
    read. If `read` returns None, a gauge keeps its last reading, and a counter is missing from then on.

    Class attributes:
        rate_limited: A reading is expensive, or the meter moves in steps. Train points closer to each other than
            `lightning_costs.indicators.reader.MIN_READ_INTERVAL_S` share one reading; so do those up to
            `MAX_READ_INTERVAL_S` if it is slow. `read` of a rate-limited counter returns the amount since its last
            call.

    Examples:
        >>> class Sneezes(Measured):
        ...     name, unit, kind, family = "sneeze_calls", "calls", "counter", "data"
        ...     def read(self, sample):
        ...         return float(sample.steps)
        >>> Sneezes.declaration().fold
        'sum'
        >>> class Wrong(Measured):
        ...     name, unit, kind, family = "energy", "j", "counter", "energy"
        ...     def read(self, sample):
        ...         return 0.0
        Traceback (most recent call last):
        TypeError: indicator name 'energy' must be its unit 'j' or end in '_j'
    """

    rate_limited: ClassVar[bool] = False

    def open(self, setting: Any) -> None:
        """Take what reading needs from the setting (`lightning_costs.probes.context.ProbeContext`)."""

    @abstractmethod
    def read(self, sample: StepSample) -> Amount:
        """The amount of this window (counter), the state at its end (gauge) or the run's number (static)."""

    def close(self) -> None:
        """Release what `open` acquired."""


class FromSample(Measured, ABC):
    """A cost that the sample holds as it is.

    Class attributes:
        field: What the sample calls it, if not as the column.
        lacking: Why the sample may hold none.
    """

    field: ClassVar[str] = ""
    lacking: ClassVar[str] = ""

    def read(self, sample: StepSample) -> float:
        amount = getattr(sample, self.field or self.name)
        if amount is None:
            raise Missing(self.lacking)
        return float(amount)


def rank_max(sibling: type[Measured], label: str) -> type[Measured]:
    """The column `rank_max_<name>` beside a sibling's: the same reading, of the rank on which it is largest.

    Args:
        sibling: What is read.
        label: For people.

    Examples:
        >>> class HeldBytes(Measured):
        ...     name, unit, kind, family, across = "held_bytes", "bytes", "gauge", "memory", "sum"
        ...     def read(self, sample):
        ...         return 5.0
        >>> declared = rank_max(HeldBytes, "held, the fullest rank").declaration()
        >>> declared.name, declared.across, declared.role
        ('rank_max_held_bytes', 'max', 'diagnostic')
    """
    own = {"name": f"rank_max_{sibling.name}", "label": label, "scope": "rank", "across": "max"}
    class_name = f"RankMax{sibling.__name__}"
    about = {"__module__": sibling.__module__, "__qualname__": class_name, "__doc__": sibling.__doc__}
    return type(class_name, (sibling,), {**own, **about, "role": "diagnostic", "headline": False})


class Derived(Indicator, ABC):
    """A cost computed from the job's other columns and the tariff; missing if one of its needs is.

    Class attributes:
        needs: Columns of the same window that `of` reads. A counter must be linear in them, so that the sum over
            windows equals the result from totals.
        of_totals: For a gauge: `of` gets the run's totals so far instead of the window's amounts.
        priced: The counter is one of `lightning_costs.pricing.rates.PRICED`: a function of the run's totals and of the
            tariffs that its attempts were under. `of` says whether it can be had; the run computes it from totals.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    of_totals: ClassVar[bool] = False
    priced: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.of_totals and cls.kind != "gauge":
            raise TypeError(f"indicator {cls.name!r}: of_totals is for gauges; got kind={cls.kind!r}")

    def open(self, setting: Any) -> None:
        """Take from the setting what the words of `method` need."""

    def needs_under(self, tariff: Tariff) -> tuple[str, ...]:
        """Which of its needs a tariff prices; all of them, if it makes no difference."""
        return self.needs

    @abstractmethod
    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        """The amount of the window, from its needs; raise `Missing(reason)` if the tariff has no figure."""


class Ratio(Derived, ABC):
    """The first need over the second; None (no new reading) in a window that has nothing of the second."""

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        amount, per = (window[need] for need in self.needs)
        return amount / per if per > 0 else None


def topological_order(indicators: Sequence[Indicator]) -> list[Indicator]:
    """Indicators with every derived one after what it needs."""
    names = [i.name for i in indicators]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"two indicators are named {twice[0]!r}; pass each name once")
    done: list[Indicator] = [i for i in indicators if not isinstance(i, Derived)]
    waiting = [i for i in indicators if isinstance(i, Derived)]
    known = {i.name for i in done}
    while waiting:
        ready = [i for i in waiting if not (set(i.needs) & set(names)) - known]
        if not ready:
            circle = ", ".join(sorted(i.name for i in waiting))
            raise ValueError(f"derived indicators need each other in a circle: {circle}")
        done += ready
        known |= {i.name for i in ready}
        waiting = [i for i in waiting if i not in ready]
    return done
