"""The sampler: which episodes run, by which policy version, and which of them an iteration gets.

Imports all but training. Data: tasks come in, groups of rollouts go out to the run directory.
"""
