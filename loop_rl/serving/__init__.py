"""vLLM servers, their client, and the policy versions they hold.

Imports machine, config, data, store, agents. Data: token ids come in, sampled tokens with log-probabilities go out.
"""
