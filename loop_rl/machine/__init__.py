"""This machine: child processes, files that appear whole, devices, the network, how a command ends. Knows nothing of runs.

Imports no other package.
"""
