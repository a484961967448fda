"""A policy on a split: episodes, figures, tables.

Imports all of the packages that sampling imports, and sampling. Data: a policy version comes in, figures go out to the run directory.
"""
