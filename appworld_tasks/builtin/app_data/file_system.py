"""Folders and files."""

from datetime import datetime

from appworld_tasks.builtin.scenario import Stage


def absolute(stage: Stage, path: str) -> str:
    """The path that AppWorld stores for one that begins with "~/"."""
    return path.replace("~/", f"/home/{stage.supervisor.first_name.lower()}/")


def names(stage: Stage, count: int) -> list[str]:
    """Draw `count` different names of folders or files, like "velvet_harbor"."""
    return [title.lower().replace(" ", "_") for title in stage.titles(count)]


def add_folders(stage: Stage, paths: list[str]) -> None:
    """Add folders like "~/lamp/" of the supervisor, parents before their sub-folders."""
    owner = {"user_id": stage.supervisor.id}
    stage.add("file_system.Directory", [{"path": absolute(stage, path), **owner} for path in paths])


def add_files(stage: Stage, files: list[tuple[str, str, datetime]]) -> None:
    """Add files (path like "~/lamp/river.txt", text, when it was made); listings are sorted by path."""
    rows = [
        {
            "user_id": stage.supervisor.id,
            "path": absolute(stage, path),
            "content": text,
            "created_at": when,
            "updated_at": when,
        }
        for path, text, when in files
    ]
    stage.add("file_system.File", rows)
