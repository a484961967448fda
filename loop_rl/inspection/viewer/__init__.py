"""Rollouts in a browser, token by token, of a run live or finished."""
