"""vLLM servers, which GPUs they and the trainer get on a node, their client, and the policy versions they hold.

Imports machine, config, data, store, agents. Data: token ids come in, sampled tokens with log-probabilities go out.
"""
