"""Reversible patches of users' objects, and the fence around them: whatever of ours raises, training goes on."""
