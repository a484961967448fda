"""The supervisor: starts the processes of a run on one node or several, watches them, ends them together.

Imports everything.
"""
