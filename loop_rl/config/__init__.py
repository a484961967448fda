"""The settings of a run, checked before anything starts; loads without torch.

Imports no other package. Data: a YAML file and overrides come in, a frozen `Config` goes to everyone.
"""
