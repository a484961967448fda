"""What a run will need and how long it will take, before anything starts. Nothing in training imports this."""
