"""Action: star the inbox threads from one person, which do not all fit on a default page."""

from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, GIVE_UP, LOGIN_CALLS, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

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
    num_wanted = stage.rng.randrange(2, 4)
    senders = [person] * (num_wanted - 1) + stage.rng.choices(others, k=stage.rng.randrange(5, 7))
    stage.rng.shuffle(senders)
    senders.append(person)  # the oldest, so past the five threads of a default page
    whens = [{"created_at": stage.ago(hours=hours + 1)} for hours in range(len(senders))]
    emails = stage.add(
        "gmail.Email",
        [
            {
                "sender_id": sender.id,
                "recipient_ids": [stage.supervisor.id],
                "subject": stage.rng.choice(stage.words.nouns),
                "body": "See you soon.",
                **when,
            }
            for sender, when in zip(senders, whens, strict=True)
        ],
    )
    email_ids = [[email.id] for email in emails]
    times = [{**when, "updated_at": when["created_at"]} for when in whens]
    threads = stage.add(
        "gmail.GlobalEmailThread", [{"email_ids": ids, **time} for ids, time in zip(email_ids, times, strict=True)]
    )
    boxes = [(stage.supervisor, thread, time, True) for thread, time in zip(threads, times, strict=True)]
    boxes += [(sender, thread, time, False) for sender, thread, time in zip(senders, threads, times, strict=True)]
    user_threads = stage.add(
        "gmail.UserEmailThread",
        [
            {
                "global_email_thread_id": thread.id,
                "user_id": owner.id,
                "email_ids": thread.email_ids,
                "incoming": incoming,
                "outgoing": not incoming,
                **time,
            }
            for owner, thread, time, incoming in boxes
        ],
    )
    wanted = [thread.id for sender, thread in zip(senders, user_threads, strict=False) if sender == person]

    opening = log_in("gmail")
    fetch = "ts = apis.gmail.show_inbox_threads(access_token=token, page_limit=20)"
    fetch_default = "ts = apis.gmail.show_inbox_threads(access_token=token)"
    names = '" ".join(p["name"] for p in t["participants"])'
    select = f'ids = [t["email_thread_id"] for t in ts if w[5] + " " in {names}]'
    select_all = 'ids = [t["email_thread_id"] for t in ts]'
    star = lines("for i in ids:", "    apis.gmail.mark_thread_starred(email_thread_id=i, access_token=token)", COMPLETE)
    return Draft(
        instruction=f"Star all email threads from {person.first_name} in my Gmail inbox.",
        public_data={"sender_first_name": person.first_name},
        private_data={"email_thread_ids": wanted},
        num_api_calls=LOGIN_CALLS + 1 + len(wanted) + 1,
        solution=[opening, lines(fetch, select, "print(ids)"), star],
        flawed={
            "default_page_only": [opening, lines(fetch_default, select, "print(ids)"), star],
            "no_filter": [opening, lines(fetch, select_all, "print(ids)"), star],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("gmail.UserEmailThread")
    wanted = set(private_data.email_thread_ids)
    with test("every inbox thread from the person is starred"):
        test.case(wanted - {thread.id for thread in updated if thread.starred}, "==", set())
    with test("no other thread was changed"):
        test.case({thread.id for thread in added + updated + removed} - wanted, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["gmail.UserEmailThread"])
