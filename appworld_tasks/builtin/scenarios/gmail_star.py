"""Action: star the inbox threads from one person, which do not all fit on a page."""

from appworld_tasks.builtin.app_data import gmail
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("gmail",)
DIFFICULTY = 2
TESTS = {
    "every inbox thread from the person is starred": "no_op_fail",
    "no other thread was changed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    person, *others = stage.people(4)
    senders = [person] * stage.rng.randrange(1, 5) + stage.rng.choices(others, k=stage.rng.randrange(20, 25))
    stage.rng.shuffle(senders)
    senders.append(person)  # the oldest, so past the twenty threads of a page
    subjects = gmail.subjects(stage, len(senders))
    mails = [
        gmail.Mail(sender, subject, stage.ago(hours=hours))
        for hours, (sender, subject) in enumerate(zip(senders, subjects, strict=True), start=1)
    ]
    ids = gmail.add_inbox(stage, mails)
    wanted = [number for sender, number in zip(senders, ids, strict=True) if sender == person]

    opening = log_in("gmail")
    fetch = all_pages("ts", "gmail.show_inbox_threads", "")
    name = 'p["name"].startswith(<first_name> + " ")'
    select = f'ids = [t["email_thread_id"] for t in ts for p in t["participants"] if {name}]'
    select_all = 'ids = [t["email_thread_id"] for t in ts]'
    star = "apis.gmail.mark_thread_starred(email_thread_id=i, access_token=gmail_token)"
    star_each = lines("for i in ids:", f"    {star}", COMPLETE)
    archive = "apis.gmail.mark_thread_archived(email_thread_id=i, access_token=gmail_token)"
    return Draft(
        instruction=f"Star all email threads from {person.first_name} in my Gmail inbox.",
        given={"first_name": person.first_name},
        private_data={"email_thread_ids": wanted},
        num_api_calls=3 + PAGES + len(wanted) + 1,
        solution=[opening, lines(fetch, select, "print(ids)"), star_each],
        wrong={
            "no_filter": [opening, lines(fetch, select_all, "print(ids)"), star_each],
            "archives_too": [
                opening,
                lines(fetch, select, "print(ids)"),
                lines("for i in ids:", f"    {star}", f"    {archive}", COMPLETE),
            ],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("gmail.UserEmailThread")
    wanted = set(private_data.email_thread_ids)
    with test("every inbox thread from the person is starred"):
        starred = {thread.id for thread in updated if thread.starred and not thread.archived}
        test.case(wanted - starred, "==", set())
    with test("no other thread was changed"):
        test.case({thread.id for thread in added + updated + removed} - wanted, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["gmail.UserEmailThread"])
