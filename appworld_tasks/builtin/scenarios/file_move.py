"""Action: move the files of one kind from one folder to another; those in a sub-folder have to stay."""

from appworld_tasks.builtin.app_data import file_system
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("file_system",)
DIFFICULTY = 2
TESTS = {
    "every file of that kind is in the other folder, with its text": "no_op_fail",
    "the other files are where they were, with their text, and no copy is left": "no_op_fail",
    "no folder was added or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}
EXTENSIONS = ("pdf", "txt", "csv", "jpg", "mp3")


def set_up(stage: Stage) -> Draft:
    rng = stage.rng
    source, target, deep = (f"~/{name}/" for name in file_system.names(stage, 3))
    deep = source + deep.removeprefix("~/")
    kind, *others = rng.sample(EXTENSIONS, 3)
    wanted = [(source, kind)] * rng.randrange(3, 6)
    rest = [(source, others[0]), (source, others[1]), (deep, kind), (deep, kind), (target, kind), (target, others[0])]
    places = wanted + rest
    names = file_system.names(stage, len(places))
    files = [(f"{where}{name}.{ending}", name) for name, (where, ending) in zip(names, places, strict=True)]
    file_system.add_folders(stage, [source, target, deep])
    file_system.add_files(stage, [(path, text, stage.ago(days=2)) for path, text in files])
    in_target = {path.replace(source, target): text for path, text in files[: len(wanted)]}
    left = dict(files[len(wanted) :])

    opening = log_in("file_system")
    listing = "apis.file_system.show_directory(directory_path=<source>, access_token=file_system_token"
    fetch = f"ps = {listing}, recursive=False)"
    fetch_deep = f"ps = {listing})"
    pick = lines('ps = [p for p in ps if p.endswith("." + <extension>)]', "print(len(ps))")
    arguments = 'source_file_path=p, destination_file_path=<target> + p.split("/")[-1], access_token=file_system_token'
    move = lines("for p in ps:", f"    apis.file_system.move_file({arguments})", COMPLETE)
    rename = 'apis.file_system.update_account_name(last_name="Extra", access_token=file_system_token)'
    return Draft(
        instruction=f"Move all {kind} files that are directly in my folder {source}, not in its sub-folders, to {target}.",
        given={"extension": kind, "source": source, "target": target},
        private_data={
            "in_target": {file_system.absolute(stage, path): text for path, text in in_target.items()},
            "left": {file_system.absolute(stage, path): text for path, text in left.items()},
        },
        num_api_calls=3 + 1 + len(wanted) + 1,
        solution=[opening, lines(fetch, pick), move],
        wrong={
            "moves_sub_folders": [opening, lines(fetch_deep, pick), move],
            "no_filter": [opening, lines(fetch, "print(len(ps))"), move],
            "copies_instead": [opening, lines(fetch, pick), move.replace("move_file", "copy_file")],
            "renames_account": [opening, lines(fetch, pick), lines(rename, move)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    files = {file.path: file.content for file in models.end.file_system.File.all()}
    in_target, left = dict(private_data.in_target), dict(private_data.left)
    with test("every file of that kind is in the other folder, with its text"):
        test.case({path: files.get(path) for path in in_target}, "==", in_target)
    with test("the other files are where they were, with their text, and no copy is left"):
        test.case({path: text for path, text in files.items() if path not in in_target}, "==", left)
    added, _, removed = models.changed_records("file_system.Directory")
    with test("no folder was added or removed"):
        test.case([folder.path for folder in added + removed], "==", [])
    check_completed(test, models)
    # Moving a file marks its folders as updated.
    check_nothing_else_changed(test, models, allowed=["file_system.File", "file_system.Directory"])
