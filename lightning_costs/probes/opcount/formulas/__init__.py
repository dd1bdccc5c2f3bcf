"""FLOPs of one operator, a formula a family of operators; no mode, no state."""
