"""AppWorld as a source of tasks: workers that run episodes, scoring, splits, and the built-in task pack."""
