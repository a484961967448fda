"""Action: turn off the phone alarms of one weekday after a certain time. The alarms span two pages."""

from appworld_tasks.builtin.app_data import phone
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("phone",)
DIFFICULTY = 2
TESTS = {
    "every alarm that is meant is off, its time unchanged": "no_op_fail",
    "no other alarm was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    labels = stage.nouns(stage.rng.randrange(25, 32))
    day, *other_days = stage.rng.sample(phone.DAYS, 7)
    limit = stage.rng.randrange(9, 19)
    time = f"{limit:02d}:{stage.rng.choice(['00', '05', '10', '20', '30', '40', '50'])}"
    early = [f"{hour:02d}:{minute}" for hour in range(4, limit) for minute in (15, 25, 35, 45)]
    late = [f"{hour:02d}:{minute}" for hour in range(limit + 1, 23) for minute in (15, 25, 35, 45)]
    # Each alarm is on that day or not, and late or not: all four kinds are there.
    kinds = [(True, True), (True, False), (False, True), (False, False)] * len(labels)
    alarms = []
    for label, (on_day, is_late) in zip(labels, kinds, strict=False):
        days = [*stage.rng.sample(other_days, 2), *[day] * on_day]
        when = stage.rng.choice(late if is_late else early)
        alarms.append({"time": when, "label": label, "repeat_days": [name.lower() for name in days]})
    alarms[0]["time"] = "23:50"  # alarms are listed by time, so this one is on the second page
    records = phone.add_alarms(stage, alarms)
    wanted = [[alarm.id, alarm.time] for alarm, kind in zip(records, kinds, strict=False) if kind == (True, True)]

    fetch = all_pages("alarms", "phone.show_alarms", "")
    on_day = 'alarms = [a for a in alarms if <day>.lower() in a["repeat_days"]]'
    after = 'ids = [a["alarm_id"] for a in alarms if a["time"] > <time>]'
    any_time = 'ids = [a["alarm_id"] for a in alarms]'
    disable = "    apis.phone.update_alarm(alarm_id=i, enabled=False, access_token=phone_token)"
    turn_off = lines("for i in ids:", disable, COMPLETE)
    delete = lines("for i in ids:", "    apis.phone.delete_alarm(alarm_id=i, access_token=phone_token)", COMPLETE)
    text = 'apis.phone.send_text_message(phone_number=me["phone_number"], message="Hi", access_token=phone_token)'
    opening = log_in("phone")
    return Draft(
        instruction=f"Turn off all my phone alarms that repeat on {day} and ring after {time}.",
        given={"day": day, "time": time},
        private_data={"alarms": wanted},
        num_api_calls=3 + PAGES + len(wanted) + 1,
        solution=[opening, lines(fetch, on_day, after, "print(len(ids))"), turn_off],
        wrong={
            "any_day": [opening, lines(fetch, after, "print(len(ids))"), turn_off],
            "any_time": [opening, lines(fetch, on_day, any_time, "print(len(ids))"), turn_off],
            "deletes_instead": [opening, lines(fetch, on_day, after, "print(len(ids))"), delete],
            "does_more": [opening, lines(fetch, on_day, after, "print(len(ids))"), lines(text, turn_off)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("phone.Alarm")
    wanted = {tuple(alarm) for alarm in private_data.alarms}
    with test("every alarm that is meant is off, its time unchanged"):
        test.case(wanted - {(alarm.id, alarm.time) for alarm in updated if not alarm.enabled}, "==", set())
    with test("no other alarm was added, changed or removed"):
        test.case({alarm.id for alarm in added + updated + removed} - {number for number, _ in wanted}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["phone.Alarm"])
