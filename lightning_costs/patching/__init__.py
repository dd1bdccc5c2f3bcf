"""Reversible patches of users' objects, and a guard around them: errors of the package never end training."""
