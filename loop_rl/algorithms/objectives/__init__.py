"""Objectives: from log-probabilities to the loss of a micro-batch. `algorithm.objective` names one."""
