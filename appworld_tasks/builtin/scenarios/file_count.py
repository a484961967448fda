"""Question: how many files of one kind are directly in a folder? Its sub-folder holds more of them."""

from appworld_tasks.builtin.app_data import file_system
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("file_system",)
DIFFICULTY = 1
TESTS = ANSWER_TESTS
EXTENSIONS = ("pdf", "txt", "csv", "jpg", "mp3")


def set_up(stage: Stage) -> Draft:
    rng = stage.rng
    folder, deep = file_system.names(stage, 2)
    extension, *others = rng.sample(EXTENSIONS, 3)
    path = f"~/{folder}/"
    num_wanted = rng.randrange(3, 13)
    kinds = [(path, extension)] * num_wanted
    kinds += [(path, rng.choice(others)) for _ in range(rng.randrange(1, 5))]
    kinds += [(f"{path}{deep}/", extension)] * rng.randrange(1, 5)
    names = file_system.names(stage, len(kinds))
    file_system.add_folders(stage, [path, f"{path}{deep}/"])
    file_system.add_files(
        stage, [(f"{where}{name}.{kind}", name, stage.now) for name, (where, kind) in zip(names, kinds, strict=True)]
    )

    opening = log_in("file_system")
    listing = "apis.file_system.show_directory(directory_path=<folder>, access_token=file_system_token"
    fetch = f"ps = {listing}, recursive=False)"
    fetch_deep = f"ps = {listing})"
    count = 'n = len([p for p in ps if p.endswith("." + <extension>)])'
    count_all = "n = len(ps)"
    return Draft(
        instruction=f"How many {extension} files are in my folder {path}, sub-folders not counted?",
        given={"extension": extension, "folder": path},
        answer=num_wanted,
        num_api_calls=3 + 1 + 1,
        solution=[opening, lines(fetch, count, "print(n)"), submit("n")],
        wrong={
            "counts_sub_folders": [opening, lines(fetch_deep, count, "print(n)"), submit("n")],
            "no_filter": [opening, lines(fetch, count_all, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
