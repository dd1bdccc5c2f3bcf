"""`python -m lightning_costs`: the command line, if its script is not on the path."""

from lightning_costs.cli.commands import main

main()
