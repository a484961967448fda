"""Action: move one labelled phone alarm to another time. The alarms do not all fit on a default page."""

from appworld_tasks.builtin.app_data import phone
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "dev"
APPS = ("phone",)
DIFFICULTY = 1
TESTS = {
    "the alarm is set to the new time and still enabled": "no_op_fail",
    "no other alarm was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    labels = stage.nouns(stage.rng.randrange(7, 13))
    # Alarms are listed by time and five fit on a default page.
    label = stage.rng.choice(labels[5:])
    times = [f"{hour:02d}:{minute}" for hour in range(5, 23) for minute in (15, 30, 45)]
    drawn = sorted(stage.rng.sample(times, len(labels)))
    alarms = phone.add_alarms(stage, [{"time": t, "label": other} for t, other in zip(drawn, labels, strict=True)])
    new_time = f"{stage.rng.randrange(5, 23):02d}:{stage.rng.choice(['00', '05', '10', '20', '50'])}"

    fetch = "alarms = apis.phone.show_alarms(access_token=phone_token, page_limit=20)"
    select = 'ids = [a["alarm_id"] for a in alarms if a["label"] == <label>]'
    select_all = 'ids = [a["alarm_id"] for a in alarms]'
    change = "apis.phone.update_alarm(alarm_id=ids[0], time=<new_time>, access_token=phone_token)"
    create = "apis.phone.create_alarm(time=<new_time>, label=<label>, access_token=phone_token)"
    text = 'apis.phone.send_text_message(phone_number=me["phone_number"], message="Hi", access_token=phone_token)'
    opening = log_in("phone")
    return Draft(
        instruction=f"Please change the time of my {label} alarm to {new_time}.",
        given={"label": label, "new_time": new_time},
        private_data={"alarm_id": alarms[labels.index(label)].id},
        num_api_calls=3 + 1 + 2,
        solution=[opening, lines(fetch, select, "print(ids)"), lines(change, COMPLETE)],
        wrong={
            "wrong_alarm": [opening, lines(fetch, select_all, "print(ids)"), lines(change, COMPLETE)],
            "creates_another": [opening, lines(create, COMPLETE)],
            "does_more": [opening, lines(fetch, select, "print(ids)"), lines(text, change, COMPLETE)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("phone.Alarm")
    wanted = private_data.alarm_id
    with test("the alarm is set to the new time and still enabled"):
        alarm = models.end.phone.Alarm.by_id(wanted)
        test.case((alarm.time, alarm.enabled), "==", (public_data.new_time, True))
    with test("no other alarm was added, changed or removed"):
        test.case({alarm.id for alarm in added + updated + removed} - {wanted}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["phone.Alarm"])
