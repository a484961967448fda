"""Contacts, messages and alarms."""

from appworld_tasks.builtin.population import Person
from appworld_tasks.builtin.scenario import Stage


def add_contacts(stage: Stage, relationships: dict[Person, list[str]]) -> None:
    """Put people into the supervisor's contact book, related as given, e.g. ["roommate", "friend"].

    The book is listed by email address, five on a default page.
    """
    rows = [
        {
            "user_id": stage.supervisor.id,
            "first_name": person.first_name,
            "last_name": person.last_name,
            "email": person.email,
            "phone_number": person.phone_number,
            "relationships": names,
        }
        for person, names in relationships.items()
    ]
    stage.add("phone.Contact", rows)
