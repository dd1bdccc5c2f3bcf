"""What a run's folder is written from, in the small: a header, points, and any points at all."""

from __future__ import annotations

from fakes import declared
from hypothesis import strategies as st

from lightning_costs.records.samples import SCHEMA_VERSION, CurvePoint

DECLARED = (declared("steps", "steps"), declared("energy_j"), declared("params", "params", kind="static"))


def header(**changes):
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": "r1",
        "name": "one",
        "status": "running",
        "created": "2026-01-01T00:00:00.000+00:00",
        "indicators": {d.name: d.as_dict() for d in DECLARED},
        "statics": {"params": 10.0},
    } | changes


def point(step=0, *, trigger="train", quality=None, **costs):
    return CurvePoint(
        step=step,
        epoch=0,
        time=1e9 + step,
        trigger=trigger,
        costs={"steps": float(step), "energy_j": 2.0 * step} | costs,
        quality=quality or {},
    )


_anything = st.floats(allow_nan=True, allow_infinity=True)
#: Any point that can be written.
points = st.builds(
    CurvePoint,
    step=st.integers(0, 2**53),
    epoch=st.integers(0, 2**31),
    time=st.floats(0, 1e11),
    trigger=st.sampled_from(["train", "evaluate", "epoch", "end"]),
    costs=st.dictionaries(st.text(), st.none() | _anything),
    quality=st.dictionaries(st.text(), _anything),
)
