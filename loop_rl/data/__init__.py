"""What flows: messages, turns, rollouts, groups, samples. Plain data, no files and no formulas.

Imports no other package.
"""
