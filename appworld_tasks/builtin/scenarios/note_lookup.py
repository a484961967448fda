"""Question: the quantity of one item in one of several notes that list the same items."""

from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import GIVE_UP, LOGIN_CALLS, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("simple_note",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    title, *other_titles = stage.titles(4)
    items = stage.nouns(4)
    # No number occurs twice, so that a wrong note, a wrong line or the sum is always a wrong answer.
    numbers = stage.rng.sample(range(2, 60), 16)
    quantities = dict(zip(items, numbers[:4], strict=True))
    wanted = stage.rng.choice(items[1:])
    rows = []
    for index, other in enumerate([title, *other_titles]):
        content = "\n".join(f"{item}: {numbers[4 * index + k]}" for k, item in enumerate(items))
        rows.append({"user_id": stage.supervisor.id, "title": other, "content": content})
    # Without a query the newest note comes first: never the one that is asked about.
    for minutes, row in enumerate(rows):
        row["created_at"] = row["updated_at"] = stage.ago(hours=10, minutes=-minutes)
    stage.add("simple_note.Note", rows)

    opening = log_in("simple_note")
    find = 'note = apis.simple_note.search_notes(query=w[3] + " " + w[4], access_token=token)[0]'
    find_any = "note = apis.simple_note.search_notes(access_token=token)[0]"
    read = lines(
        'text = apis.simple_note.show_note(note_id=note["note_id"], access_token=token)["content"]', "print(text)"
    )
    pick = 'n = [l.split(": ")[1] for l in text.splitlines() if l.startswith(w[10] + ": ")][0]'
    return Draft(
        instruction=f"In my note {title}, which number is listed for {wanted}?",
        answer=quantities[wanted],
        public_data={"note_title": title, "item": wanted},
        private_data={"quantities": quantities},
        num_api_calls=LOGIN_CALLS + 2 + 1,
        solution=[opening, lines(find, read), lines(pick, submit("n"))],
        flawed={
            "no_query": [opening, lines(find_any, read), lines(pick, submit("n"))],
            "first_line": [
                opening,
                lines(find, read),
                lines('n = [l.split(": ")[1] for l in text.splitlines()][0]', submit("n")),
            ],
            "sums_all": [
                opening,
                lines(find, read),
                lines('n = sum(int(l.split(": ")[1]) for l in text.splitlines())', submit("n")),
            ],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
