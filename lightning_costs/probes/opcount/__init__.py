"""Operators of a step counted as they run: FLOPs, MACs, bytes accessed, and which steps are counted."""
