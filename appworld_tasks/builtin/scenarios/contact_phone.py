"""Question: the phone number of one contact, who is past the first default page of the contact book."""

from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import GIVE_UP, LOGIN_CALLS, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("phone",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    # The contact book is listed by email address and five contacts fit on a default page.
    contacts = sorted(stage.people(stage.rng.randrange(8, 11)), key=lambda person: person.email)
    person = stage.rng.choice(contacts[5:])
    stage.add(
        "phone.Contact",
        [
            {
                "user_id": stage.supervisor.id,
                "first_name": contact.first_name,
                "last_name": contact.last_name,
                "email": contact.email,
                "phone_number": contact.phone_number,
                "relationships": ["friend"],
            }
            for contact in contacts
        ],
    )

    opening = log_in("phone")
    fetch = "cs = apis.phone.search_contacts(access_token=token, page_limit=20)"
    fetch_default = "cs = apis.phone.search_contacts(access_token=token)"
    select = 'cs = [c for c in cs if c["first_name"] == w[8]]'
    show = "print(len(cs))"
    return Draft(
        instruction=f"What is the phone number of my contact {person.first_name}?",
        answer=person.phone_number,
        public_data={"first_name": person.first_name},
        num_api_calls=LOGIN_CALLS + 1 + 1,
        solution=[opening, lines(fetch, select, show), submit('cs[0]["phone_number"]')],
        flawed={
            "no_filter": [opening, lines(fetch, show), submit('cs[0]["phone_number"]')],
            "wrong_field": [opening, lines(fetch, select, show), submit('cs[0]["email"]')],
            "default_page_only": [opening, lines(fetch_default, select, show), GIVE_UP],
            "no_login": [fetch, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
