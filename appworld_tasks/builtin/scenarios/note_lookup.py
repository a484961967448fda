"""Question: which number has one item in a note? Three other notes list the same items."""

from appworld_tasks.builtin.app_data import simple_note
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("simple_note",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    titles = stage.titles(4)
    items = stage.nouns(4)
    wanted = stage.rng.randrange(1, 4)
    # No number occurs twice, so that a wrong note or a wrong line is always a wrong answer.
    numbers = stage.rng.sample(range(2, 90), 16)
    contents = ["\n".join(f"{item}: {numbers[4 * i + k]}" for k, item in enumerate(items)) for i in range(4)]
    # The note that is asked about is the oldest: a listing begins with the others.
    simple_note.add_notes(stage, list(zip(titles, contents, strict=True)))

    opening = log_in("simple_note")
    find = "note = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)[0]"
    find_any = "note = apis.simple_note.search_notes(access_token=simple_note_token)[0]"
    read = lines(
        'text = apis.simple_note.show_note(note_id=note["note_id"], access_token=simple_note_token)["content"]',
        "print(text)",
    )
    pick = 'n = [l.split(": ")[1] for l in text.splitlines() if l.startswith(<item> + ": ")][0]'
    pick_first = 'n = [l.split(": ")[1] for l in text.splitlines()][0]'
    add_up = 'n = sum(int(l.split(": ")[1]) for l in text.splitlines())'
    return Draft(
        instruction=f"In my note {titles[0]}, which number is listed for {items[wanted]}?",
        given={"note_title": titles[0], "item": items[wanted]},
        answer=numbers[wanted],
        num_api_calls=3 + 2 + 1,
        solution=[opening, lines(find, read), lines(pick, "print(n)"), submit("n")],
        wrong={
            "wrong_note": [opening, lines(find_any, read), lines(pick, "print(n)"), submit("n")],
            "first_line": [opening, lines(find, read), lines(pick_first, "print(n)"), submit("n")],
            "sums_instead": [opening, lines(find, read), lines(add_up, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
