"""Email threads of the supervisor's inbox."""

from dataclasses import dataclass
from datetime import datetime

from appworld_tasks.builtin.population import Person
from appworld_tasks.builtin.scenario import Stage


@dataclass(frozen=True)
class Mail:
    """One email to the supervisor."""

    sender: Person
    subject: str
    when: datetime
    body: str = "See you soon."
    read: bool = False


def subjects(stage: Stage, count: int) -> list[str]:
    """Draw `count` different subjects of two words."""
    words = stage.words
    pairs = [f"{adjective} {noun}".title() for adjective in words.adjectives for noun in words.nouns]
    return stage.rng.sample(pairs, count)


def add_inbox(stage: Stage, mails: list[Mail]) -> list[int]:
    """Add a thread for each email and return the threads' ids; the inbox begins with the newest."""
    emails = stage.add(
        "gmail.Email",
        [
            {
                "sender_id": mail.sender.id,
                "recipient_ids": [stage.supervisor.id],
                "subject": mail.subject,
                "body": mail.body,
                "created_at": mail.when,
            }
            for mail in mails
        ],
    )
    times = [{"created_at": mail.when, "updated_at": mail.when} for mail in mails]
    threads = stage.add(
        "gmail.GlobalEmailThread",
        [{"email_ids": [email.id], **time} for email, time in zip(emails, times, strict=True)],
    )
    # Everybody who takes part in a thread has it in a box of their own.
    boxes = [(stage.supervisor, thread, mail) for thread, mail in zip(threads, mails, strict=True)]
    boxes += [(mail.sender, thread, mail) for thread, mail in zip(threads, mails, strict=True)]
    rows = [
        {
            "global_email_thread_id": thread.id,
            "user_id": owner.id,
            "email_ids": thread.email_ids,
            "incoming": owner == stage.supervisor,
            "outgoing": owner != stage.supervisor,
            "read": owner != stage.supervisor or mail.read,
            "created_at": mail.when,
            "updated_at": mail.when,
        }
        for owner, thread, mail in boxes
    ]
    return [thread.id for thread in stage.add("gmail.UserEmailThread", rows)[: len(mails)]]
