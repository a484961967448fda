"""The run directory, the only thing that the processes of a run share: what is visible is whole.

Imports machine, config, data. Data: rollouts and policies come in, and are there for whoever asks after a crash.
"""
