"""Action: approve one person's pending Venmo payment requests, which do not all fit on a default page."""

from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, GIVE_UP, LOGIN_CALLS, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("venmo",)
DIFFICULTY = 2
TESTS = {
    "every pending request from the named person is approved": "no_op_fail",
    "no other payment request was changed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    person, *others = stage.people(4)
    num_wanted = stage.rng.randrange(2, 4)
    senders = [person] * (num_wanted - 1) + stage.rng.choices(others, k=stage.rng.randrange(5, 7))
    stage.rng.shuffle(senders)
    senders.append(person)  # the oldest, so past the five requests of a default page
    rows = []
    for hours, sender in enumerate(senders):
        amount, when = float(stage.rng.randrange(5, 60)), stage.ago(hours=hours + 1)
        rows.append(
            {
                "sender_id": sender.id,
                "receiver_id": stage.supervisor.id,
                "amount": amount,
                "description": stage.rng.choice(stage.words.nouns),
                "created_at": when,
                "updated_at": when,
            }
        )
    requests = stage.add("venmo.PaymentRequest", rows)
    wanted = sorted(request.id for request in requests if request.sender_id == person.id)

    opening = log_in("venmo")
    fetch = 'rs = apis.venmo.show_received_payment_requests(status="pending", access_token=token, page_limit=20)'
    fetch_default = 'rs = apis.venmo.show_received_payment_requests(status="pending", access_token=token)'
    select = 'ids = [r["payment_request_id"] for r in rs if r["sender"]["name"].startswith(w[7] + " ")]'
    select_all = 'ids = [r["payment_request_id"] for r in rs]'
    approve = lines(
        "for i in ids:", "    apis.venmo.approve_payment_request(payment_request_id=i, access_token=token)", COMPLETE
    )
    deny = lines(
        "for i in ids:", "    apis.venmo.deny_payment_request(payment_request_id=i, access_token=token)", COMPLETE
    )
    return Draft(
        instruction=f"Approve all pending Venmo payment requests from {person.first_name}.",
        public_data={"sender_first_name": person.first_name},
        private_data={"payment_request_ids": wanted},
        num_api_calls=LOGIN_CALLS + 1 + len(wanted) + 1,
        solution=[opening, lines(fetch, select, "print(ids)"), approve],
        flawed={
            "default_page_only": [opening, lines(fetch_default, select, "print(ids)"), approve],
            "no_filter": [opening, lines(fetch, select_all, "print(ids)"), approve],
            "denies": [opening, lines(fetch, select, "print(ids)"), deny],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    _, updated, _ = models.changed_records("venmo.PaymentRequest")
    approved = {request.id for request in updated if request.approved_at is not None}
    wanted = set(private_data.payment_request_ids)
    with test("every pending request from the named person is approved"):
        test.case(wanted - approved, "==", set())
    with test("no other payment request was changed"):
        test.case({request.id for request in updated} - wanted, "==", set())
    check_completed(test, models)
    allowed = ["venmo.PaymentRequest", "venmo.Transaction", "venmo.User", "venmo.Notification"]
    check_nothing_else_changed(test, models, allowed=allowed)
