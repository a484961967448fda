"""Where the episodes of an iteration come from."""
