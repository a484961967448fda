"""Advantage estimators: from the rollouts of a group to a number per action token. `algorithm.advantage` names one."""
