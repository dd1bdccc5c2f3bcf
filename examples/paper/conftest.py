"""Doctests of the studies; DeepSpeed, which takes seconds to import, is for those that train with it."""

collect_ignore = ["with_deepspeed.py"]
