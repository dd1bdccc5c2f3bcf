"""Tariffs, price tables and carbon intensity: physical amounts to carbon and money. No framework, no files of runs."""
