"""Penalties: what is taken from an objective, or from a reward. `algorithm.penalties` names any number of them."""
