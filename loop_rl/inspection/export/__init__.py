"""Models and data sets taken out of a run."""
