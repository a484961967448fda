"""Worlds to act in, behind one protocol; one file an environment, or one folder.

Imports machine, config, data. Data: the policy's text comes in, observations and rewards go out. AppWorld is named in `appworld/` only.
"""
