"""Pipelines: a stage's timeline, and the schedules of torch and DeepSpeed that it is taken from."""
