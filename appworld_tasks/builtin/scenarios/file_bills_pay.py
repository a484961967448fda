"""Action across three apps: pay a relative the total of a folder's latest bills. Older bills are in it as well."""

from appworld_tasks.builtin.app_data import file_system, phone
from appworld_tasks.builtin.checks import PAYMENT, check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("file_system", "phone", "venmo")
DIFFICULTY = 3
TESTS = {
    "one payment went to the right person": "no_op_fail",
    "one payment has the total of the bills": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    rng = stage.rng
    # The contact book is listed by email address; the first one is somebody else.
    people = sorted(stage.people(7), key=lambda person: person.email)
    relationships = rng.sample(phone.RELATIVES, 7)
    phone.add_contacts(stage, [(p, [name]) for p, name in zip(people, relationships, strict=True)])
    wanted = rng.randrange(1, 7)
    days = rng.randrange(5, 25)
    num_new, num_old = rng.randrange(3, 6), rng.randrange(3, 6)
    ages = [rng.randrange(1, days - 1) for _ in range(num_new)]
    ages += [rng.randrange(days + 2, days + 60) for _ in range(num_old)]
    prices, taxes = rng.sample(range(10, 90), len(ages)), rng.choices(range(1, 9), k=len(ages))
    folder = f"~/{file_system.names(stage, 1)[0]}/"
    paths = [f"{folder}{name}.txt" for name in file_system.names(stage, len(ages))]
    texts = [f"Price: {price}\nTax: {tax}\nTotal: {price + tax}" for price, tax in zip(prices, taxes, strict=True)]
    whens = [stage.ago(days=age) for age in ages]
    file_system.add_folders(stage, [folder])
    file_system.add_files(stage, list(zip(paths, texts, whens, strict=True)))

    contact = lines(
        "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)",
        'email = cs[0]["email"]',
        "print(email)",
    )
    read = lines(
        "ps = apis.file_system.show_directory(directory_path=<folder>, access_token=file_system_token)",
        "fs = [apis.file_system.show_file(file_path=p, access_token=file_system_token) for p in ps]",
        "print(len(fs))",
    )
    date = lines(
        "from datetime import datetime, timedelta",
        "start = (datetime.now() - timedelta(days=<days>)).isoformat()",
        "print(start)",
    )
    select = 'fs = [f for f in fs if f["created_at"] >= start]'
    add_up = 'n = sum(int(f["content"].split("Total: ")[1]) for f in fs)'
    pay = lines("apis.venmo.create_transaction(receiver_email=email, amount=n, access_token=venmo_token)", COMPLETE)
    opening = log_in("phone", "file_system", "venmo")

    def attempt(contact=contact, select=select, add_up=add_up):
        return [opening, contact, read, date, lines(select, add_up, "print(n)"), pay]

    return Draft(
        instruction=f"Pay my {relationships[wanted]} on Venmo the sum of the totals of all bills that were put into my "
        f"folder {folder} in the last {days} days.",
        given={"relationship": relationships[wanted], "folder": folder, "days": days},
        private_data={
            "receiver_email": people[wanted].email,
            "amount": float(sum(prices[:num_new]) + sum(taxes[:num_new])),
        },
        num_api_calls=5 + 1 + 1 + len(paths) + 2,
        solution=attempt(),
        wrong={
            "wrong_person": attempt(contact=contact.replace("relationship=<relationship>, ", "")),
            "all_bills": attempt(select="print(start)"),
            "one_bill": attempt(add_up=add_up.replace("in fs)", "in fs[:1])")),
            "without_tax": attempt(add_up=add_up.replace('"Total: ")[1]', '"Price: ")[1].split()[0]')),
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, _, _ = models.changed_records("venmo.Transaction")
    receivers = [models.end.venmo.User.by_id(payment.receiver_id).email for payment in added]
    with test("one payment went to the right person"):
        test.case(receivers, "==", [private_data.receiver_email])
    with test("one payment has the total of the bills"):
        test.case([payment.amount for payment in added], "==", [private_data.amount])
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=PAYMENT)
