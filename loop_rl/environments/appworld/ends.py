"""AppWorld's words for why an episode ends."""

COMPLETED = "completed"
"""The agent called complete_task."""
NO_CODE = "no_code"
"""A turn without a code block."""
TAMPERED = "tampered"
"""However it ended, its state is not what its API calls give; reward 0."""
