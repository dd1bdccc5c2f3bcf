"""Comparisons drawn: charts, one HTML page, tables for the terminal. A report computes nothing."""
