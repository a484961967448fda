"""Action across three apps: pay a relative on Venmo what the latest of their emails with a certain subject asks for."""

from appworld_tasks.builtin.app_data import gmail, phone
from appworld_tasks.builtin.checks import PAYMENT, check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("phone", "gmail", "venmo")
DIFFICULTY = 3
TESTS = {
    "one payment went to the right person": "no_op_fail",
    "one payment has the amount of the email": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    # The contact book is listed by email address, and the wanted person is never its first.
    others = sorted(stage.people(7), key=lambda contact: contact.email)
    person = others.pop(stage.rng.randrange(1, 7))
    relationship, *relationships = stage.rng.sample(phone.RELATIVES, 7)
    related = [(other, [name]) for other, name in zip(others, relationships, strict=True)]
    phone.add_contacts(stage, [*related, (person, [relationship])])
    subject, *rest = gmail.subjects(stage, 20)
    # Newest first. The person writes a lot, so that the wanted email is on the second page of theirs, before an older
    # one with the same subject. Everybody else has written with that subject as well.
    sent = [(person, stage.rng.choice(rest)) for _ in range(stage.rng.randrange(20, 24))]
    sent += [(other, subject) for other in others]
    stage.rng.shuffle(sent)
    sent += [(person, subject), (person, stage.rng.choice(rest)), (person, subject)]
    amounts = stage.rng.sample(range(10, 95), len(sent))
    mails = [
        gmail.Mail(sender, title, stage.ago(hours=7 * i), body=f"Hi, please send me {n} dollars on Venmo. Thank you!")
        for i, ((sender, title), n) in enumerate(zip(sent, amounts, strict=True), start=1)
    ]
    gmail.add_inbox(stage, mails)

    contact = lines(
        "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)",
        'email = cs[0]["email"]',
        "print(email)",
    )
    select = 'ids = [t["email_thread_id"] for t in ts if t["subject"] == <subject>]'
    find = lines(all_pages("ts", "gmail.show_inbox_threads", "from_email=email"), select, "print(ids)")
    read = lines(
        "t = apis.gmail.show_thread(email_thread_id=ids[0], access_token=gmail_token)",
        'text = t["emails"][0]["body"]',
        "print(text)",
    )
    amount = lines("n = [int(x) for x in text.split() if x.isdigit()][0]", "print(n)")
    pay = lines("apis.venmo.create_transaction(receiver_email=email, amount=n, access_token=venmo_token)", COMPLETE)
    opening = log_in("phone", "gmail", "venmo")

    def attempt(contact=contact, find=find, read=read):
        return [opening, contact, find, read, amount, pay]

    return Draft(
        instruction=f"Pay my {relationship} on Venmo the amount that they ask for in their latest Gmail email "
        f"with the subject {subject}.",
        given={"relationship": relationship, "subject": subject},
        private_data={"receiver_email": person.email, "amount": float(amounts[-3])},
        num_api_calls=5 + 1 + PAGES + 1 + 2,
        solution=attempt(),
        wrong={
            "wrong_person": attempt(contact=contact.replace("relationship=<relationship>, ", "")),
            "any_sender": attempt(find=find.replace("from_email=email, ", "")),
            "any_subject": attempt(find=find.replace(' if t["subject"] == <subject>', "")),
            "oldest_email": attempt(read=read.replace("ids[0]", "ids[-1]")),
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("venmo.Transaction")
    receivers = [models.end.venmo.User.by_id(payment.receiver_id).email for payment in added]
    with test("one payment went to the right person"):
        test.case(receivers, "==", [private_data.receiver_email])
    with test("one payment has the amount of the email"):
        test.case([payment.amount for payment in added], "==", [private_data.amount])
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=PAYMENT)
