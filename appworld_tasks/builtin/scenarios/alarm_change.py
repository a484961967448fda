"""Action: move one labelled phone alarm to another time. The alarms do not all fit on a default page."""

from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, GIVE_UP, LOGIN_CALLS, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("phone",)
DIFFICULTY = 1
TESTS = {
    "the alarm is set to the new time and still enabled": "no_op_fail",
    "no other alarm was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    labels = stage.nouns(stage.rng.randrange(7, 10))
    # Alarms are listed by time and five fit on a default page.
    times = sorted(stage.rng.sample([f"{hour:02d}:{minute}" for hour in range(5, 23) for minute in (15, 30, 45)], 9))
    label = stage.rng.choice(labels[5:])
    new_time = f"{stage.rng.randrange(5, 23):02d}:{stage.rng.choice(['00', '05', '10', '20', '50'])}"
    alarms = stage.add(
        "phone.Alarm",
        [
            {"user_id": stage.supervisor.id, "time": time, "label": other, "enabled": True, "repeat_days": []}
            for time, other in zip(times, labels, strict=False)
        ],
    )
    alarm_id = next(alarm.id for alarm in alarms if alarm.label == label)

    opening = log_in("phone")
    fetch = "alarms = apis.phone.show_alarms(access_token=token, page_limit=20)"
    fetch_default = "alarms = apis.phone.show_alarms(access_token=token)"
    select = 'ids = [a["alarm_id"] for a in alarms if a["label"] == w[2]]'
    select_all = 'ids = [a["alarm_id"] for a in alarms]'
    change = lines("apis.phone.update_alarm(alarm_id=ids[0], time=w[5], access_token=token)", COMPLETE)
    disable = lines("apis.phone.update_alarm(alarm_id=ids[0], enabled=False, access_token=token)", COMPLETE)
    return Draft(
        instruction=f"Change my {label} alarm to {new_time}.",
        public_data={"label": label, "new_time": new_time},
        private_data={"alarm_id": alarm_id},
        num_api_calls=LOGIN_CALLS + 1 + 1 + 1,
        solution=[opening, lines(fetch, select, "print(ids)"), change],
        flawed={
            "no_filter": [opening, lines(fetch, select_all, "print(ids)"), change],
            "default_page_only": [opening, lines(fetch_default, select, "print(ids)"), GIVE_UP],
            "disables_instead": [opening, lines(fetch, select, "print(ids)"), disable],
            "no_login": [fetch, GIVE_UP],
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
