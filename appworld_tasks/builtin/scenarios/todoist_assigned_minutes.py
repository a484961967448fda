"""Question across two apps: how long do a relative's open tasks of one project take that are due in the next days?"""

from datetime import timedelta

from appworld_tasks.builtin.app_data import phone, todoist
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "dev"
APPS = ("phone", "todoist")
DIFFICULTY = 3
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    rng = stage.rng
    # The contact book is listed by email address; the first one is somebody else.
    people = sorted(stage.people(7), key=lambda person: person.email)
    relationships = rng.sample(phone.RELATIVES, 7)
    phone.add_contacts(stage, [(p, [name]) for p, name in zip(people, relationships, strict=True)])
    wanted = rng.randrange(1, 7)
    days = rng.randrange(5, 25)
    projects = todoist.add_projects(stage, stage.titles(7), shared_with=people)
    minutes = iter(rng.sample(range(5, 100), 20))

    def column(person, days_from_now: int, is_completed: bool = False) -> dict:
        due = stage.now.replace(hour=0, minute=0) + timedelta(days=days_from_now)
        return {
            "assignee_id": person.id,
            "assigner_id": stage.supervisor.id,
            "due_date": due,
            "is_completed": is_completed,
            "duration": float(next(minutes)),
            "duration_unit": "minutes",
        }

    person = people[wanted]
    asked = [column(person, rng.randrange(1, days)) for _ in range(rng.randrange(3, 6))]
    rest = [column(person, days + rng.randrange(2, 20)) for _ in range(2)]
    rest += [column(person, -rng.randrange(2, 20)) for _ in range(2)]
    rest += [column(person, rng.randrange(1, days), is_completed=True) for _ in range(2)]
    # The first contact and another project have more to do in these days.
    rest += [column(people[0], 1), *({**todo, "assignee_id": people[0].id} for todo in asked)]
    todos = [*asked, *rest]
    rng.shuffle(todos)
    todoist.add_todos(stage, projects[0], todos)
    todoist.add_todos(stage, projects[-1], [*asked, column(person, 1)])

    contact = lines(
        "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)",
        'email = cs[0]["email"]',
        "print(email)",
    )
    fetch = "ps = apis.todoist.show_projects(access_token=todoist_token, page_limit=20)"
    select = 'i = [p["project_id"] for p in ps if p["name"] == <project>][0]'
    date = lines(
        "from datetime import datetime, timedelta",
        'today = datetime.now().strftime("%Y-%m-%d")',
        'last = (datetime.now() + timedelta(days=<days>)).strftime("%Y-%m-%d")',
        "print(today, last)",
    )
    filters = "assignee_email=email, is_completed=False, min_due_date=today, max_due_date=last"
    read = f'ts = apis.todoist.show_tasks(project_id=i, {filters}, access_token=todoist_token)["no_section_tasks"]'
    add_up = 'n = sum(t["duration"] for t in ts)'
    opening = log_in("phone", "todoist")

    def attempt(contact=contact, select=select, read=read, add_up=add_up):
        find = lines(fetch, select, "print(i)")
        return [opening, contact, find, date, lines(read, add_up, "print(n)"), submit("n")]

    return Draft(
        instruction=f"How many minutes do the open tasks take that are assigned to my {relationships[wanted]} in my "
        f"Todoist project {projects[0].name} and due in the next {days} days?",
        given={"relationship": relationships[wanted], "project": projects[0].name, "days": days},
        answer=int(sum(todo["duration"] for todo in asked)),
        num_api_calls=4 + 1 + 1 + 1 + 1,
        solution=attempt(),
        wrong={
            "wrong_person": attempt(contact=contact.replace("relationship=<relationship>, ", "")),
            "wrong_project": attempt(select='i = ps[0]["project_id"]'),
            "anybody": attempt(read=read.replace("assignee_email=email, ", "")),
            "done_ones_too": attempt(read=read.replace("is_completed=False, ", "")),
            "overdue_ones_too": attempt(read=read.replace("min_due_date=today, ", "")),
            "later_ones_too": attempt(read=read.replace(", max_due_date=last", "")),
            "counts_instead": attempt(add_up="n = len(ts)"),
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
