"""An episode: a conversation as tokens, and the loop of a policy that acts in an environment.

Imports data, environments. Data: a task comes in, a rollout goes out.
"""
