"""What runs cost, as a paper's appendix or a model card states it: `statement(runs)`, then one of the formats."""

from __future__ import annotations

from lightning_costs.report.statement.boamps import boamps as boamps
from lightning_costs.report.statement.build import build_statement as build_statement
from lightning_costs.report.statement.data import Statement as Statement
from lightning_costs.report.statement.render import annex_xi as annex_xi
from lightning_costs.report.statement.render import latex as latex
from lightning_costs.report.statement.render import markdown as markdown
from lightning_costs.report.statement.render import model_card as model_card
from lightning_costs.report.statement.render import neurips as neurips

__all__ = ["Statement", "annex_xi", "boamps", "build_statement", "latex", "markdown", "model_card", "neurips"]
