"""Runs that others wrote: tables, curves, loggers' folders, W&B, MLPerf; nothing here writes."""
