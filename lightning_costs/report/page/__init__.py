"""The HTML page: one self-contained file; its scripts draw and sort, and compute nothing."""
