"""What fits, and how long it takes, before anything runs.

Imports config, data, store, training (its packing), sampling (its rules of assignment).
"""
