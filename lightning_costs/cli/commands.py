"""The command line: its commands, in the order in which `--help` lists them."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from lightning_costs.cli.compare_commands import check, compare
from lightning_costs.cli.predict import predict_command
from lightning_costs.cli.project_commands import reprice, total
from lightning_costs.cli.report_command import report
from lightning_costs.cli.run_commands import run, show, watch
from lightning_costs.records.printable import printable
from lightning_costs.records.versions import version_of
from lightning_costs.report.terminal.console import say, take_any_text

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What training costs, by every indicator at once.",
)


def _version(asked: bool) -> None:
    if asked:
        say(f"lightning-costs {version_of('lightning-costs')}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What training costs, by every indicator at once."""


app.command(context_settings={"allow_interspersed_args": False})(run)
for _command in (show, watch, compare, report, reprice, total, check):
    app.command()(_command)
app.command(name="predict")(predict_command)


def main() -> NoReturn:
    """Run the command line; what a user can mend is one line, not a traceback."""
    take_any_text()
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(printable(f"lightning-costs: {error}")) from None
    raise SystemExit(0)


if __name__ == "__main__":
    main()
