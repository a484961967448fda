"""Contacts, messages and alarms."""

from datetime import datetime

from appworld_tasks.builtin.population import Person
from appworld_tasks.builtin.scenario import Stage

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Relationships that one person in a contact book has, and such that several have.
RELATIVES = ("brother", "sister", "mother", "father", "uncle", "aunt", "cousin", "manager", "landlord", "mentor")
GROUPS = ("roommate", "coworker", "neighbor", "teammate", "classmate")


def add_contacts(stage: Stage, contacts: list[tuple[Person, list[str]]]) -> None:
    """Put people into the supervisor's contact book, each with relationships, e.g. ["roommate", "friend"].

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
        for person, names in contacts
    ]
    stage.add("phone.Contact", rows)


def add_messages(stage: Stage, messages: list[tuple[Person, Person, str, datetime]]) -> None:
    """Add text messages (sender, receiver, text, when), each in both people's phones; listings show the newest first."""
    rows = [
        {"sender_id": sender.id, "receiver_id": receiver.id, "message": text, "created_at": when}
        for sender, receiver, text, when in messages
    ]
    sent = stage.add("phone.GlobalTextMessage", rows)
    copies = [
        {"global_text_message_id": message.id, "user_id": user_id, "created_at": message.created_at}
        for message in sent
        for user_id in (message.sender_id, message.receiver_id)
    ]
    stage.add("phone.UserTextMessage", copies)


def add_alarms(stage: Stage, alarms: list[dict]) -> list:
    """Add alarms that are on, each with its `time` ("07:15"), `label` and maybe `repeat_days`; listed by time."""
    rows = [{"user_id": stage.supervisor.id, "enabled": True, **alarm} for alarm in alarms]
    return stage.add("phone.Alarm", rows)
