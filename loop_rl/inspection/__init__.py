"""For the reader of a run: report, viewer, export, replay, debug-loss, play, the live view. Never steers training.

Imports everything below `running`; only the supervisor imports it.
"""
