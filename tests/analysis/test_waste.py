"""Twenty runs with planted waste: causes, sums and ranks equal a count by hand."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from synthetic import declaration

from lightning_costs.analysis.data import plain
from lightning_costs.analysis.waste import ProjectWaste, project_waste
from lightning_costs.report.terminal.waste import groups_table, waste_notes, waste_table
from lightning_costs.run.record import RunRecord

WATTS, USD_PER_S = 2.0, 0.01
ACCOUNTS = ("setup", "train", "evaluate", "checkpoint", "other")


class Course:
    """A run as it goes: seconds by account, and evaluations; two joules and a cent a second."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = dict.fromkeys((*ACCOUNTS, "data_wait"), 0.0)
        self.steps = 0.0
        self.rows: list[dict[str, Any]] = []

    def train(self, seconds: float, *, waiting: float = 0.0) -> Course:
        self.spent["train"] += seconds
        self.spent["data_wait"] += waiting
        self.steps += seconds
        return self

    def pay(self, account: str, seconds: float) -> Course:
        self.spent[account] += seconds
        return self

    def point(self, quality: float | None = None, trigger: str = "evaluate") -> Course:
        total_s = sum(self.spent[account] for account in ACCOUNTS)
        costs = {f"{name}_s": seconds for name, seconds in self.spent.items()}
        costs |= {f"{account}_energy_j": WATTS * self.spent[account] for account in ACCOUNTS}
        costs |= {
            "total_s": total_s,
            "energy_j": WATTS * total_s,
            "cloud_usd": USD_PER_S * total_s,
            "steps": self.steps,
        }
        about = {"step": int(self.steps), "epoch": 0, "time": 0.0, "trigger": trigger, "acc": quality}
        self.rows.append({**about, **costs, "down_s": 0.0})
        return self

    def run(self, name: str, status: str = "finished", **header: Any) -> RunRecord:
        self.point(None, "end")
        units = {"energy_j": "j", "cloud_usd": "usd", "steps": "steps"}
        names = [n for n in self.rows[-1] if n not in ("step", "epoch", "time", "trigger", "acc")]
        declared = {n: declaration(n, units.get(n, n.rpartition("_")[2]), "counter", "time") for n in names}
        about: dict[str, Any] = {"run_id": name, "name": name, "status": status, "monitor": "acc", "mode": "max"}
        about |= {"indicators": declared, "attempts": [{}], "quality": ["acc"], **header}
        return RunRecord(header=about, points=pl.DataFrame(self.rows, infer_schema_length=None))


def course(seconds: float = 100.0, *, best_at: float = 100.0, best: float = 0.9) -> Course:
    """Trained for so long, evaluated every ten seconds (which takes no time), best at one of them."""
    made = Course()
    for n in range(1, int(seconds / 10) + 1):
        at = 10.0 * n
        made.train(10.0).point(best - abs(at - best_at) / 1000)
    return made


def project() -> list[RunRecord]:
    runs = [course().run(f"good-{n}", hyperparameters={"lr": 0.1}) for n in range(4)]
    runs.append(course(50.0, best_at=50.0).run("cheap", hyperparameters={"lr": 0.3}))
    runs += [course(best_at=40.0).run(f"long-{n}", group="long", hyperparameters={"lr": 0.1}) for n in range(4)]
    runs += [course(70.0).run(f"failed-{n}", "failed", group="broken") for n in range(3)]
    runs += [course(30.0).run(f"killed-{n}", "killed", group="broken") for n in range(2)]
    for n in range(2):
        waits = Course()
        for at in range(1, 11):
            waits.train(10.0, waiting=2.5).point(0.8 + at / 100)
        runs.append(waits.run(f"waits-{n}"))
    for n in range(2):
        lost = {f"{kind}_{unit}": amount for kind, unit, amount in (
            ("total", "s", 15.0), ("train", "s", 15.0), ("energy", "j", 30.0), ("train_energy", "j", 30.0),
            ("cloud", "usd", 0.15),
        )}  # fmt: skip
        runs.append(course().run(f"restarted-{n}", attempts=[{}, {"row": 5, "lost": lost}]))
    again = course()
    runs.append(again.pay("evaluate", 3.0).point(0.9).pay("evaluate", 2.0).point(0.85).run("evaluates-twice"))
    saves = Course().train(80.0).pay("checkpoint", 12.0).point(0.8).run("saves")
    assert len([*runs, saves]) == 20
    return [*runs, saves]


@pytest.fixture(scope="module")
def found() -> ProjectWaste:
    return project_waste(project())


#: By hand: seconds wasted by a run of each name.
BY_HAND = {"good": 0, "cheap": 0, "long": 60, "failed": 70, "killed": 30, "waits": 25, "restarted": 15, "saves": 12}


def test_every_run_wastes_what_was_planted(found: ProjectWaste) -> None:
    wasted = {run.label: run.wasted.s for run in found.runs if run.label != "evaluates-twice"}
    assert wasted == {name: pytest.approx(BY_HAND[name.partition("-")[0]]) for name in wasted}
    for run in found.runs:
        assert run.wasted.energy_j == pytest.approx(WATTS * (run.wasted.s or 0.0))
        assert run.wasted.cloud_usd == pytest.approx(USD_PER_S * (run.wasted.s or 0.0))


def test_the_causes_are_those_that_were_planted(found: ProjectWaste) -> None:
    causes = {
        run.label: {cause: spent.s for cause, spent in run.by_cause.items() if spent.s} for run in found.runs
    }  # fmt: skip
    assert causes["long-0"] == {"after_best": 60.0}
    assert causes["failed-0"] == {"failed": 70.0}
    assert causes["killed-1"] == {"failed": 30.0}
    assert causes["waits-1"] == {"data_wait": 25.0}
    assert causes["restarted-0"] == {"lost": 15.0}
    assert causes["saves"] == {"checkpoint": 12.0}
    assert causes["evaluates-twice"] == {"after_best": 5.0}  # nothing was learned after the first of the three


def test_an_evaluation_of_the_same_weights_before_the_best_is_a_repeated_one() -> None:
    twice = Course().train(10.0).pay("evaluate", 3.0).point(0.5).pay("evaluate", 4.0).point(0.5)
    run = project_waste([twice.train(10.0).pay("evaluate", 3.0).point(0.9).run("a")]).runs[0]
    assert run.by_cause["repeated_evaluations"].s == 4.0
    assert run.by_cause["repeated_evaluations"].energy_j == 8.0
    assert run.by_cause["repeated_evaluations"].cloud_usd == pytest.approx(0.04)


def test_the_ranking_and_the_sum_equal_a_count_by_hand(found: ProjectWaste) -> None:
    assert found.rank_by == "cloud_usd"
    order = [run.label.partition("-")[0] for run in found.runs]
    planted = {"failed": 3, "long": 4, "killed": 2, "waits": 2, "restarted": 2, "saves": 1, "evaluates": 1}
    assert order[:15] == [name for name, number in planted.items() for _ in range(number)]
    by_hand_s = 3 * 70 + 4 * 60 + 2 * 30 + 2 * 25 + 2 * 15 + 12 + 5
    assert found.wasted.s == pytest.approx(by_hand_s)
    assert found.wasted.cloud_usd == pytest.approx(0.01 * by_hand_s)
    assert {group: spent.s for group, spent in found.groups.items()} == {
        "broken": pytest.approx(270.0),
        "long": pytest.approx(240.0),
        None: pytest.approx(97.0),
    }
    assert list(found.groups) == ["broken", "long", None]


def test_a_run_is_held_against_the_cheapest_one_of_the_same_quality(found: ProjectWaste) -> None:
    long = next(run for run in found.runs if run.label == "long-0")
    assert (long.cheapest, long.differs) == ("cheap", {"hyperparameters.lr": (0.1, 0.3)})
    assert long.at_best is not None
    assert long.at_best.s == 40.0
    cheap = next(run for run in found.runs if run.label == "cheap")
    assert (cheap.cheapest, cheap.differs) == (None, {})


def test_the_best_is_said_to_be_known_in_hindsight_only(found: ProjectWaste) -> None:
    notes = list(waste_notes(found, 5))
    assert any(note == "long-0: stopped at its best it would have cost $0.400" for note in notes), notes
    assert any("known in hindsight only" in note for note in notes)
    assert waste_table(found, 5).row_count == 5
    groups = groups_table(found)
    assert groups is not None
    assert groups.row_count == 3


def test_a_run_without_quality_or_energy_says_what_is_unknown() -> None:
    run = project_waste([Course().train(10.0).run("plain", monitor=None)]).runs[0]
    assert run.by_cause.get("after_best") is None
    assert "no quality" in run.missing["after_best"]
    old = Course().train(10.0).point(0.5).run("old", attempts=[{}, {}])
    assert "unknown" in project_waste([old]).runs[0].missing["lost"]


def test_waste_is_plain_data(found: ProjectWaste) -> None:
    told = json.loads(json.dumps(plain(found.as_dict())))
    assert told["runs"][0]["by_cause"]["failed"]["s"] == 70.0
    assert told["groups"][0]["group"] == "broken"
    assert project_waste([]).runs == ()
