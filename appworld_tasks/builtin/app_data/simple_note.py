"""Notes."""

from appworld_tasks.builtin.scenario import Stage


def add_notes(stage: Stage, notes: list[tuple[str, str]]) -> list:
    """Add notes (title, content) of the supervisor an hour apart; listings begin with the last one."""
    rows = []
    for index, (title, content) in enumerate(notes):
        when = stage.ago(hours=len(notes) - index)
        rows.append(
            {
                "user_id": stage.supervisor.id,
                "title": title,
                "content": content,
                "created_at": when,
                "updated_at": when,
            }
        )
    return stage.add("simple_note.Note", rows)
