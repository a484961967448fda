"""Action: approve one person's pending Venmo payment requests, which span two pages."""

from appworld_tasks.builtin.app_data import venmo
from appworld_tasks.builtin.checks import PAYMENT, check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("venmo",)
DIFFICULTY = 2
TESTS = {
    "every pending request from the named person is approved": "no_op_fail",
    "no other payment request was changed": "no_op_pass",
    "nobody else was paid": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    person, *others = stage.people(5)
    num_wanted = stage.rng.randrange(2, 5)
    senders = [person] * (num_wanted - 1) + stage.rng.choices(others, k=stage.rng.randrange(20, 24))
    stage.rng.shuffle(senders)
    senders.append(person)  # the oldest, so on the second page
    me = stage.supervisor
    amounts = [stage.rng.randrange(5, 60) for _ in senders]
    pending = [
        (sender, me, n, stage.ago(hours=i + 2)) for i, (sender, n) in enumerate(zip(senders, amounts, strict=True))
    ]
    requests = venmo.add_requests(stage, pending)
    # One that was refused is pending no more.
    venmo.add_requests(stage, [(person, me, stage.rng.randrange(5, 60), stage.ago(hours=1))], "denied_at")

    opening = log_in("venmo")
    fetch = all_pages("rs", "venmo.show_received_payment_requests", 'status="pending"')
    select = 'ids = [r["payment_request_id"] for r in rs if r["sender"]["name"].startswith(<first_name> + " ")]'
    select_all = 'ids = [r["payment_request_id"] for r in rs]'
    approve_one = "    apis.venmo.approve_payment_request(payment_request_id=i, access_token=venmo_token)"
    approve = lines("for i in ids:", approve_one, COMPLETE)
    deny = approve.replace("approve_payment_request", "deny_payment_request")
    befriend = 'apis.venmo.add_friend(user_email=rs[0]["sender"]["email"], access_token=venmo_token)'
    find = lines(fetch, select, "print(ids)")
    return Draft(
        instruction=f"Approve all pending Venmo payment requests from {person.first_name}.",
        given={"first_name": person.first_name},
        private_data={
            "sender_email": person.email,
            "payment_request_ids": [request.id for request in requests if request.sender_id == person.id],
        },
        num_api_calls=3 + PAGES + num_wanted + 1,
        solution=[opening, find, approve],
        wrong={
            "no_filter": [opening, lines(fetch, select_all, "print(ids)"), approve],
            "denies": [opening, find, deny],
            "does_more": [opening, find, lines(befriend, approve)],
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
    added, _, _ = models.changed_records("venmo.Transaction")
    with test("nobody else was paid"):
        receivers = {models.end.venmo.User.by_id(payment.receiver_id).email for payment in added}
        test.case(receivers - {private_data.sender_email}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["venmo.PaymentRequest", *PAYMENT])
