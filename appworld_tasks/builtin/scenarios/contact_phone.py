"""Question: the phone number of one contact, who is past the first default page of the contact book."""

from appworld_tasks.builtin.app_data import phone
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("phone",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    # The contact book is listed by email address and five contacts fit on a default page.
    contacts = sorted(stage.people(stage.rng.randrange(8, 11)), key=lambda person: person.email)
    person = stage.rng.choice(contacts[5:])
    phone.add_contacts(stage, [(contact, [stage.rng.choice(phone.GROUPS)]) for contact in contacts])

    opening = log_in("phone")
    fetch = "cs = apis.phone.search_contacts(access_token=phone_token, page_limit=20)"
    select = 'cs = [c for c in cs if c["first_name"] == <first_name>]'
    number = lines('n = cs[0]["phone_number"]', "print(n)")
    email = lines('n = cs[0]["email"]', "print(n)")
    return Draft(
        instruction=f"What is the phone number of my contact {person.first_name}?",
        given={"first_name": person.first_name},
        answer=person.phone_number,
        num_api_calls=3 + 1 + 1,
        solution=[opening, lines(fetch, select, number), submit("n")],
        wrong={
            "wrong_person": [opening, lines(fetch, number), submit("n")],
            "wrong_field": [opening, lines(fetch, select, email), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
