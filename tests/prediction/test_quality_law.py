"""Power laws of quality: found where there is one, with what a target needs; nothing where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_costs.prediction.quality_law import fit_quality_law
from lightning_costs.records.samples import SCHEMA_VERSION
from lightning_costs.run.record import RunRecord


def runs(points: Sequence[tuple[float, float]], mode: str = "min") -> list[RunRecord]:
    found = []
    for samples, quality in points:
        header = {
            "schema_version": SCHEMA_VERSION,
            "run_id": f"{samples:g}",
            "indicators": {"samples": {}},
            "monitor": "val/q",
            "mode": mode,
        }
        worse = quality + 0.1 if mode == "min" else quality - 0.1
        table = polars.DataFrame({"samples": [samples / 2, samples], "val/q": [worse, quality]})
        found.append(RunRecord(header=header, points=table))
    return found


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.5, 50), exponent=st.floats(0.05, 1.0))
def test_a_power_law_is_found_and_inverted(scale: float, exponent: float) -> None:
    law = fit_quality_law(runs([(x, scale * x**-exponent) for x in (1e3, 4e3, 1.6e4, 6.4e4)]))
    assert law.exponent == pytest.approx(exponent, rel=1e-6)
    target = scale * 3e5**-exponent
    needed = law.needed(target)
    assert needed.middle == pytest.approx(3e5, rel=1e-4)
    assert needed.low == pytest.approx(needed.high, rel=1e-3)


def test_a_floor_is_found_where_many_runs_show_one() -> None:
    law = fit_quality_law(runs([(x, 0.2 + 5 * x**-0.5) for x in np.geomspace(100, 1e6, 9)]))
    assert law.floor == pytest.approx(0.2, rel=0.05)
    with pytest.raises(ValueError, match="is beyond the law's floor"):
        law.needed(0.1)


def test_accuracy_is_fitted_by_its_error_with_an_interval() -> None:
    sizes = np.geomspace(1e3, 1e6, 8)
    noise = np.random.default_rng(0).normal(1, 0.05, 8)
    law = fit_quality_law(runs([(x, 1 - n * 2 * x**-0.3) for x, n in zip(sizes, noise, strict=True)], "max"))
    assert law.words().startswith("1 - val/q = ")
    assert "Dehghani et al. 2021" in law.words()
    found = law.needed(0.98)
    assert found.low < found.middle < found.high  # type: ignore[operator]


def test_nothing_is_extrapolated_beyond_tenfold() -> None:
    law = fit_quality_law(runs([(x, 10 * x**-0.5) for x in (1e3, 4e3, 1.6e4, 6.4e4)]))
    assert law.needed(10 * 6e5**-0.5).middle == pytest.approx(6e5)
    with pytest.raises(ValueError, match=r"needs 100 times the samples of the largest run"):
        law.needed(10 * 6.4e6**-0.5)


def test_a_poor_fit_few_runs_and_equal_budgets_give_nothing() -> None:
    with pytest.raises(ValueError, match="a quality law needs 4 runs with val/q and samples, got 3"):
        fit_quality_law(runs([(1e3, 0.5), (1e4, 0.4), (1e5, 0.3)]))
    with pytest.raises(ValueError, match=r"the runs' samples differ by a factor of 2: a law needs 4 or more"):
        fit_quality_law(runs([(1e3, 0.5), (1.2e3, 0.45), (1.5e3, 0.4), (2e3, 0.35)]))
    with pytest.raises(ValueError, match=r"no power law: it explains \d+ % .* nothing is extrapolated"):
        fit_quality_law(runs([(1e3, 0.3), (1e4, 0.5), (1e5, 0.2), (1e6, 0.45)]))
    with pytest.raises(ValueError, match="a quality law needs the runs' metric"):
        fit_quality_law([RunRecord(header={"run_id": "x", "indicators": {}}, points=polars.DataFrame())])
