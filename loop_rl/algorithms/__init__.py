"""The formulas: pure functions, one idea a file, named in the config's `algorithm` section.

Imports config, data. Data: rollouts come in, advantages go out; log-probabilities come in, a loss goes out.
"""
