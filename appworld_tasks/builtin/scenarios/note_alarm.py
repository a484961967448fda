"""Action across two apps: set an alarm some minutes before the first of tomorrow's appointments in an unsorted note."""

from datetime import datetime, timedelta

from appworld_tasks.builtin.app_data import phone, simple_note
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("simple_note", "phone")
DIFFICULTY = 3
TESTS = {
    "one alarm was added, at the right time": "no_op_fail",
    "the added alarm has the label and is on": "no_op_fail",
    "no alarm was changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    label, *nouns = stage.nouns(16)
    titles, things, labels = nouns[:3], nouns[3:11], nouns[11:]
    minutes = stage.rng.randrange(15, 95, 5)
    contents, first_times = [], []
    for _ in titles:
        early = stage.rng.sample([f"{h:02d}:{m}" for h in range(7, 10) for m in (15, 25, 40, 55)], 4)
        late = stage.rng.sample([f"{h:02d}:{m}" for h in range(10, 20) for m in (10, 20, 35, 50)], 4)
        # Tomorrow's appointments are the late ones; the note has the earliest of them last.
        late = [*sorted(late)[1:], min(late)]
        entries = [*zip([0, 0, 2, 3], early, strict=True), *zip([1, 1, 1, 1], late, strict=True)]
        days = [(stage.now + timedelta(days=days)).strftime("%Y-%m-%d") for days, _ in entries]
        rows = [f"{day} {time} {thing}" for day, (_, time), thing in zip(days, entries, things, strict=True)]
        contents.append("\n".join([*rows[:2], *rows[4:], *rows[2:4]]))
        first_times.append(min(late))
    # The note that is asked about is the oldest: a listing begins with the others.
    simple_note.add_notes(stage, list(zip(titles, contents, strict=True)))
    phone.add_alarms(stage, [{"time": f"0{5 + k}:05", "label": other} for k, other in enumerate(labels[:3])])
    time = datetime.strptime(first_times[0], "%H:%M") - timedelta(minutes=minutes)

    read_note = lines(
        "note = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)[0]",
        'text = apis.simple_note.show_note(note_id=note["note_id"], access_token=simple_note_token)["content"]',
        "print(text)",
    )
    tomorrow = lines(
        "from datetime import datetime, timedelta",
        'day = (datetime.now() + timedelta(days=1)).strftime("%Y-%m-%d")',
    )
    today = lines("from datetime import datetime, timedelta", 'day = datetime.now().strftime("%Y-%m-%d")')
    select = "times = sorted([l.split()[1] for l in text.splitlines() if l.startswith(day)])"
    select_unsorted = "times = [l.split()[1] for l in text.splitlines() if l.startswith(day)]"
    before = lines(
        'start = datetime.strptime(times[0], "%H:%M") - timedelta(minutes=<minutes>)',
        'time = start.strftime("%H:%M")',
        "print(time)",
    )
    at_the_time = lines("time = times[0]", "print(time)")
    create = lines("apis.phone.create_alarm(time=time, label=<label>, access_token=phone_token)", COMPLETE)
    change = lines(
        'i = apis.phone.show_alarms(access_token=phone_token, page_limit=20)[0]["alarm_id"]',
        "apis.phone.update_alarm(alarm_id=i, time=time, label=<label>, access_token=phone_token)",
        COMPLETE,
    )
    opening, choose = log_in("simple_note", "phone"), lines(tomorrow, select, "print(times)")
    choose_unsorted = lines(tomorrow, select_unsorted, "print(times)")
    return Draft(
        instruction=f"Set a phone alarm labelled {label} for {minutes} minutes before my first appointment of tomorrow "
        f"in my note {titles[0]}.",
        given={"label": label, "minutes": minutes, "note_title": titles[0]},
        private_data={"time": time.strftime("%H:%M")},
        num_api_calls=4 + 2 + 2,
        solution=[opening, read_note, choose, before, create],
        wrong={
            "wrong_day": [opening, read_note, lines(today, select, "print(times)"), before, create],
            "first_in_the_note": [opening, read_note, choose_unsorted, before, create],
            "at_the_time_itself": [opening, read_note, choose, at_the_time, create],
            "changes_another": [opening, read_note, choose, before, change],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("phone.Alarm")
    with test("one alarm was added, at the right time"):
        test.case([alarm.time for alarm in added], "==", [private_data.time])
    with test("the added alarm has the label and is on"):
        test.case([(alarm.label, alarm.enabled) for alarm in added], "==", [(public_data.label, True)])
    with test("no alarm was changed or removed"):
        test.case([alarm.id for alarm in updated + removed], "==", [])
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["phone.Alarm"])
