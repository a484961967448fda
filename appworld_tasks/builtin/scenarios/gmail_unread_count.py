"""Question: how many inbox threads of one person are unread? Others write too, and the inbox has two pages."""

from appworld_tasks.builtin.app_data import gmail
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import PAGES, all_pages, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("gmail",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    person, *others = stage.people(4)
    unread = stage.rng.randrange(3, 9)
    flags = [(person, False)] * (unread - 1) + [(person, True)] * stage.rng.randrange(2, 8)
    flags += [(other, False) for other in stage.rng.choices(others, k=22)]
    flags += [(other, True) for other in stage.rng.choices(others, k=5)]
    stage.rng.shuffle(flags)
    flags.append((person, False))  # the oldest, so on the second page of any listing
    mails = [
        gmail.Mail(sender, subject, stage.ago(hours=hours), read=read)
        for hours, ((sender, read), subject) in enumerate(
            zip(flags, gmail.subjects(stage, len(flags)), strict=True), start=1
        )
    ]
    gmail.add_inbox(stage, mails)

    opening = log_in("gmail")
    fetch = all_pages("ts", "gmail.show_inbox_threads", "read=False")
    fetch_all = all_pages("ts", "gmail.show_inbox_threads", "")
    count = 'n = len([t for t in ts for p in t["participants"] if p["name"].startswith(<first_name> + " ")])'
    count_all = "n = len(ts)"
    return Draft(
        instruction=f"How many email threads from {person.first_name} in my Gmail inbox have I not read yet?",
        given={"first_name": person.first_name},
        answer=unread,
        num_api_calls=3 + PAGES + 1,
        solution=[opening, lines(fetch, count, "print(n)"), submit("n")],
        wrong={
            "counts_read_ones": [opening, lines(fetch_all, count, "print(n)"), submit("n")],
            "no_filter": [opening, lines(fetch, count_all, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
