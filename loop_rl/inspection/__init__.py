"""Looking at a run: report, viewer, export, replay, play. Reads the run directory; training never imports it."""
