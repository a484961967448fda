"""Filters: which rollouts are trained on. `algorithm.filter` names one."""
