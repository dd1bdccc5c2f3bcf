"""The saved view of a W&B project that plots quality against costs, and its panels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_costs.storage.loggers import PREFIX

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import LinePlot
    from wandb_workspaces.workspaces import Workspace

#: The view's name in a project's list, and in its address: the same for all, so that there is one.
TITLE = "Quality against costs"
NAME = "nw-costquality-v"
#: The cost that quality is drawn against first, where runs have it.
_FIRST = ("energy_j", "device_s", "train_s", "total_s", "flop", "samples", "steps")
#: Panels beside each other, and rows of the grid that each is high.
_ACROSS, _HEIGHT = 3, 6


class Keys(NamedTuple):
    """Under which names a project's runs hold things: what is plotted, and what our prefix is there.

    Args:
        costs: Column to its label with its unit, in the order in which they are drawn; curves of runs alone.
        headline: Those that are shown first.
        monitor: The quality metric.
        before: What the logger puts before all names ('mine-'), usually nothing.
    """

    costs: Mapping[str, str]
    headline: Sequence[str]
    monitor: str | None
    before: str = ""

    def cost(self, column: str) -> str:
        """The name of a cost column."""
        return f"{self.before}{PREFIX}{column}"

    @property
    def quality(self) -> str:
        """The name of the quality metric."""
        return f"{self.before}{self.monitor}"

    @property
    def first(self) -> str:
        """The cost that is drawn first, by its column."""
        return next((column for column in (*_FIRST, *self.costs) if column in self.costs), "steps")


def keys_of(
    declared: Mapping[str, Mapping[str, Any]], held: Iterable[str], monitor: str | None, before: str = ""
) -> Keys:
    """What is drawn of runs that hold these columns: counters that take part in rankings."""
    there = set(held)
    costs = {
        name: f"{row['label']} ({row['unit']})" if row["unit"] != row["label"] else str(row["label"])
        for name, row in declared.items()
        if name in there and row["kind"] == "counter" and row["role"] == "indicator"
    }
    return Keys(costs, [name for name in costs if declared[name]["headline"]], monitor, before)


def quality_plots(keys: Keys, columns: Sequence[str], most_runs: int = 50) -> list[LinePlot]:
    """Quality against each cost: x and y stand in one row of a run's history, so that W&B can join them."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=f"{keys.monitor} against {keys.costs[column]}",
            x=keys.cost(column),
            y=[keys.quality],
            title_x=keys.costs[column],
            title_y=str(keys.monitor),
            smoothing_factor=0.0,
            smoothing_type="none",
            max_runs_to_show=most_runs,
            layout=placed(index),
        )
        for index, column in enumerate(columns)
    ]


def placed(index: int, across: int = _ACROSS, height: int = _HEIGHT) -> Any:
    """Where the panel of this number stands on a grid of 24 columns."""
    import wandb_workspaces.reports.v2 as wr

    width = 24 // across
    return wr.Layout(x=width * (index % across), y=height * (index // across), w=width, h=height)


def view(entity: str, project: str, keys: Keys) -> Workspace:
    """The view, not saved: quality against the headline costs, against the others, and costs over steps."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    others = [column for column in keys.costs if column not in keys.headline]
    steps = [
        wr.LinePlot(title=keys.costs[column], x=keys.cost("steps"), y=[keys.cost(column)], layout=placed(index))
        for index, column in enumerate(column for column in keys.headline if "steps" in keys.costs)
    ]
    drawn = keys.monitor is not None
    sections = [
        ws.Section(name=TITLE, panels=quality_plots(keys, keys.headline) if drawn else [], is_open=True),
        ws.Section(name="Against the other costs", panels=quality_plots(keys, others) if drawn else [], is_open=False),
        ws.Section(name="Costs over steps", panels=steps, is_open=not drawn),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[section for section in sections if section.panels],
        settings=ws.WorkspaceSettings(x_axis=keys.cost(keys.first), smoothing_type="none", max_runs=50),
    )


def save_view(entity: str, project: str, keys: Keys) -> str:
    """Save the view under its one name, again if the project has it, and return its address."""
    made = view(entity, project, keys)
    # A view is created under a name that its maker chooses, which cannot be set in wandb-workspaces 0.4.13.
    made._internal_name, made._internal_id = NAME, find_view(entity, project) or ""
    made.save()
    return str(made.url)


def find_view(entity: str, project: str) -> str | None:
    """The id of the project's view, None if it has none."""
    from wandb_workspaces.workspaces.internal import get_view_dict

    try:
        return str(get_view_dict(entity, project, NAME.removeprefix("nw-").removesuffix("-v"))["id"])
    except ValueError as error:
        if "not found" in str(error):
            return None
        raise
