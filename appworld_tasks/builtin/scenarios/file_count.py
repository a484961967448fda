"""Question: how many files of one kind are directly in a folder that has sub-folders?"""

from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import GIVE_UP, LOGIN_CALLS, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("file_system",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS
EXTENSIONS = ("pdf", "txt", "csv", "jpg", "mp3")


def set_up(stage: Stage) -> Draft:
    folder, sub_folder, *names = stage.nouns(14)
    extension, *others = stage.rng.sample(EXTENSIONS, 3)
    home = f"/home/{stage.supervisor.first_name.lower()}/"
    directory, sub_directory = f"{home}{folder}/", f"{home}{folder}/{sub_folder}/"
    num_wanted, num_others, num_deep = stage.rng.randrange(2, 6), stage.rng.randrange(1, 4), stage.rng.randrange(1, 4)
    kinds = [(directory, extension)] * num_wanted
    kinds += [(directory, stage.rng.choice(others)) for _ in range(num_others)]
    kinds += [(sub_directory, extension)] * num_deep
    owner = {"user_id": stage.supervisor.id}
    stage.add("file_system.Directory", [{"path": path, **owner} for path in (directory, sub_directory)])
    stage.add(
        "file_system.File",
        [
            {"path": f"{path}{name}.{kind}", "content": name, **owner}
            for name, (path, kind) in zip(names, kinds, strict=False)
        ],
    )

    opening = log_in("file_system")
    fetch = "paths = apis.file_system.show_directory(directory_path=w[8], recursive=False, access_token=token)"
    fetch_deep = "paths = apis.file_system.show_directory(directory_path=w[8], access_token=token)"
    count = 'n = len([p for p in paths if p.endswith("." + w[2])])'
    return Draft(
        instruction=f"How many {extension} files are in my folder ~/{folder}/, sub-folders not counted?",
        answer=num_wanted,
        public_data={"folder": folder, "extension": extension},
        num_api_calls=LOGIN_CALLS + 1 + 1,
        solution=[opening, lines(fetch, count, "print(n)"), submit("n")],
        flawed={
            "counts_sub_folders": [opening, lines(fetch_deep, count, "print(n)"), submit("n")],
            "no_filter": [opening, lines(fetch, "n = len(paths)", "print(n)"), submit("n")],
            "no_answer": [opening, lines(fetch, count, "print(n)"), submit("None")],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
