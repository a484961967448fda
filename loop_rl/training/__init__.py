"""The trainer's ranks: model, micro-batches, the update, checkpoints, publishing. Knows samples and an objective, and no algorithm's name.

Imports machine, config, data, store, algorithms. Data: samples come in, a policy version goes out to the run directory.
"""
