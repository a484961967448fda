"""Question: how many text messages did one contact send in the last days? The messages span two pages."""

from appworld_tasks.builtin.app_data import phone
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import PAGES, all_pages, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("phone",)
DIFFICULTY = 2
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    person, *others = stage.people(8)
    contacts = sorted([person, *others], key=lambda contact: contact.email)
    phone.add_contacts(stage, [(contact, [stage.rng.choice(phone.GROUPS)]) for contact in contacts])
    days, me = stage.rng.randrange(5, 26), stage.supervisor
    num_recent, num_old = stage.rng.randrange(26, 40), stage.rng.randrange(8, 15)
    hours = stage.rng.sample(range(1, 24 * days - 12), num_recent)
    # Nothing was sent on the first day of that time, so that it does not matter at which hour it begins.
    hours += stage.rng.sample(range(24 * days + 36, 24 * days + 500), num_old)
    senders = [stage.rng.choice([person, person, me]) for _ in hours]
    senders[hours.index(max(hours[:num_recent]))] = person  # on the second page, as the listing begins with the last
    talk = [
        (sender, me if sender == person else person, f"Have you seen my {stage.nouns(1)[0]}?", stage.ago(hours=h))
        for sender, h in zip(senders, hours, strict=True)
    ]
    phone.add_messages(stage, [*talk, *[(other, me, "How are you?", stage.ago(hours=5)) for other in others]])

    fetch_contacts = "cs = apis.phone.search_contacts(access_token=phone_token, page_limit=20)"
    find = 'number = [c["phone_number"] for c in cs if c["first_name"] == <first_name>][0]'
    fetch = all_pages("ms", "phone.search_text_messages", "phone_number=number")
    received = 'ms = [m for m in ms if m["sender"]["phone_number"] == number]'
    start = lines(
        "from datetime import datetime, timedelta",
        "start = (datetime.now() - timedelta(days=<days>)).isoformat()",
    )
    count = 'n = len([m for m in ms if m["sent_at"] >= start])'
    count_all = "n = len(ms)"
    opening, contact = log_in("phone"), lines(fetch_contacts, find, "print(number)")
    return Draft(
        instruction=f"How many text messages has my contact {person.first_name} sent me in the last {days} days?",
        given={"first_name": person.first_name, "days": days},
        answer=sum(sender == person for sender in senders[:num_recent]),
        num_api_calls=3 + 1 + PAGES + 1,
        solution=[opening, contact, lines(fetch, received, start, count, "print(n)"), submit("n")],
        wrong={
            "any_sender": [opening, contact, lines(fetch, start, count, "print(n)"), submit("n")],
            "any_time": [opening, contact, lines(fetch, received, count_all, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
