"""Runs to a comparison, as plain data: nothing here draws, reads a file or knows a framework."""
