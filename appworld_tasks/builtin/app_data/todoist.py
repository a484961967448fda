"""Projects and the tasks in them."""

from appworld_tasks.builtin.population import Person
from appworld_tasks.builtin.scenario import Stage


def add_projects(stage: Stage, names: list[str], shared_with: list[Person] | None = None) -> list:
    """Add projects of the supervisor a day apart; listings begin with the last one, five on a default page.

    Each is shared with the people of `shared_with`, who can then be assigned tasks.
    """
    rows = [
        {"user_id": stage.supervisor.id, "name": name, "created_at": stage.ago(days=len(names) - index)}
        for index, name in enumerate(names)
    ]
    projects = stage.add("todoist.Project", rows)
    members = [stage.supervisor, *(shared_with or [])]
    links = [{"project_id": project.id, "user_id": member.id} for project in projects for member in members]
    stage.add("todoist.ProjectCollaboratorLink", links)
    return projects


def add_todos(stage: Stage, project, columns: list[dict]) -> list:
    """Add a task to `project` for each entry of `columns`, which may set any column; listed in this order."""
    rows = [
        {
            "project_id": project.id,
            "user_id": stage.supervisor.id,
            "title": title,
            "priority": "medium",
            "order_index": index,
            **column,
        }
        for index, (title, column) in enumerate(zip(stage.titles(len(columns)), columns, strict=True))
    ]
    return stage.add("todoist.Task", rows)
