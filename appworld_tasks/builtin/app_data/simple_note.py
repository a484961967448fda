"""Notes."""

from appworld_tasks.builtin.scenario import Stage


def add_notes(stage: Stage, notes: list[tuple[str, str]], columns: list[dict] | None = None) -> list:
    """Add notes (title, content) of the supervisor an hour apart; listings begin with the last one.

    columns: other columns of each note, which may also set other moments.
    """
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
                **(columns[index] if columns else {}),
            }
        )
    return stage.add("simple_note.Note", rows)
