"""Pipelines as data: closed forms of their bubbles, and timelines of their stages."""
