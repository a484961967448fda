"""The scenario templates: one file each."""

from importlib import import_module
from types import ModuleType

TRAIN_TEMPLATES = (
    "spotify_artist_count",
    "note_lookup",
    "file_count",
    "contact_phone",
    "playlist_rename",
    "alarm_change",
    "venmo_sent_total",
    "todoist_open_count",
    "spotify_like_artist",
    "venmo_approve",
    "todoist_complete",
    "note_pay",
)
# Each needs an app that no train template uses.
CHALLENGE_TEMPLATES = ("wish_list_total", "wish_list_to_cart", "splitwise_debt", "gmail_star")


def load(template: str) -> ModuleType:
    """Import one scenario file."""
    return import_module(f"{__name__}.{template}")
