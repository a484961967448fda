"""Action across two apps: remind everybody of one relationship of old Venmo payment requests, found on two pages."""

from appworld_tasks.builtin.app_data import phone, venmo
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("phone", "venmo")
DIFFICULTY = 3
TESTS = {
    "each of these requests was reminded of once": "no_op_fail",
    "no other request was reminded of": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    me = stage.supervisor
    people = stage.people(7)
    wanted, others = people[:3], people[3:]
    relationship, other = stage.rng.sample(phone.GROUPS, 2)
    phone.add_contacts(stage, [(p, [relationship if p in wanted else other]) for p in people])
    num_days = stage.rng.randrange(5, 21)
    # Requests are listed from the newest; the last old one is on the second page.
    new = [*wanted, *stage.rng.choices(others, k=7)]
    old = [*wanted[1:], *stage.rng.choices(others, k=stage.rng.randrange(8, 12)), wanted[0]]
    new_hours = stage.rng.sample(range(2, 24 * (num_days - 1)), len(new))
    old_hours = sorted(stage.rng.sample(range(24 * (num_days + 1), 24 * (num_days + 40)), len(old)))
    requests = venmo.add_requests(
        stage,
        [
            (me, receiver, stage.rng.randrange(5, 60), stage.ago(hours=hours))
            for receiver, hours in zip([*new, *old], [*new_hours, *old_hours], strict=True)
        ],
    )
    ids = [r.id for r, receiver in zip(requests[len(new) :], old, strict=True) if receiver in wanted]
    # What has been paid needs no reminder.
    paid = [(me, p, stage.rng.randrange(5, 60), stage.ago(days=num_days + 3)) for p in wanted]
    venmo.add_requests(stage, paid, "approved_at")

    contacts = lines(
        "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)",
        'emails = [c["email"] for c in cs]',
        "print(len(emails))",
    )
    fetch = lines(
        all_pages("rs", "venmo.show_sent_payment_requests", 'status="pending"'),
        'rs = [r for r in rs if r["receiver"]["email"] in emails]',
        "print(len(rs))",
    )
    select = lines(
        "from datetime import datetime, timedelta",
        "start = (datetime.now() - timedelta(days=<num_days>)).isoformat()",
        'ids = [r["payment_request_id"] for r in rs if r["created_at"] < start]',
        "print(ids)",
    )
    remind_one = "    apis.venmo.remind_payment_request(payment_request_id=i, access_token=venmo_token)"
    remind = lines("for i in ids:", remind_one, COMPLETE)
    opening = log_in("phone", "venmo")
    everybody = fetch.replace('r["receiver"]["email"] in emails', "True")
    newer = select.replace("< start", "> start")
    any_age = select.replace(' if r["created_at"] < start', "")
    return Draft(
        instruction=f"Remind my {relationship}s of those pending Venmo payment requests that I sent them more than "
        f"{num_days} days ago.",
        given={"relationship": f"{relationship}s", "num_days": num_days},
        private_data={"payment_request_ids": ids},
        num_api_calls=4 + 1 + PAGES + len(ids) + 1,
        solution=[opening, contacts, fetch, select, remind],
        wrong={
            "no_relationship": [opening, contacts, everybody, select, remind],
            "newer_ones": [opening, contacts, fetch, newer, remind],
            "any_age": [opening, contacts, fetch, any_age, remind],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("venmo.Notification")
    reminders = [n.data["payment_request_id"] for n in added if n.type == "payment_request_reminded"]
    wanted = private_data.payment_request_ids
    with test("each of these requests was reminded of once"):
        test.case(sorted(i for i in reminders if i in wanted), "==", sorted(wanted))
    with test("no other request was reminded of"):
        test.case(set(reminders) - set(wanted), "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["venmo.Notification"])
