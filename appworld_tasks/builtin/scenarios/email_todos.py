"""Action across three apps: a Todoist task for each unread email that a relative has sent in the last 7 days."""

from appworld_tasks.builtin.app_data import gmail, phone, todoist
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_challenge"
APPS = ("phone", "gmail", "todoist")
DIFFICULTY = 3
TESTS = {
    "each wanted email has a task with its subject": "no_op_fail",
    "no other Todoist task was added, changed or removed": "no_op_pass",
    "every new task is in the right project": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    # The contact book is listed by email address, and the wanted person is never its first.
    others = sorted(stage.people(7), key=lambda contact: contact.email)
    person = others.pop(stage.rng.randrange(1, 7))
    relationship, *relationships = stage.rng.sample(phone.RELATIVES, 7)
    related = [(other, [name]) for other, name in zip(others, relationships, strict=True)]
    phone.add_contacts(stage, [*related, (person, [relationship])])
    projects = todoist.add_projects(stage, stage.nouns(5))
    # Newest first, five hours apart: the last of this week's emails is on the second page of the person's.
    recent = [(person, False)] * stage.rng.randrange(2, 5) + [(person, True)] * stage.rng.randrange(20, 22)
    recent += [(other, False) for other in others]
    stage.rng.shuffle(recent)
    recent.append((person, False))
    old = [(person, False), (person, True), (person, False)]
    whens = [stage.ago(hours=5 * i) for i in range(1, len(recent) + 1)] + [stage.ago(days=9 + i) for i in range(3)]
    mails = [
        gmail.Mail(sender, subject, when, read=read)
        for (sender, read), subject, when in zip(recent + old, gmail.subjects(stage, len(whens)), whens, strict=True)
    ]
    gmail.add_inbox(stage, mails)
    wanted = [mail.subject for mail in mails[: len(recent)] if mail.sender == person and not mail.read]

    contact = lines(
        "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)",
        'email = cs[0]["email"]',
        "print(email)",
    )
    date = lines(
        "from datetime import datetime, timedelta",
        "start = (datetime.now() - timedelta(days=7)).isoformat()",
        "print(start)",
    )
    fetch = all_pages("ts", "gmail.show_inbox_threads", "from_email=email")
    select = 'titles = [t["subject"] for t in ts if t["created_at"] >= start and not t["read"]]'
    find = lines(fetch, select, "print(titles)")
    project = lines(
        "ps = apis.todoist.show_projects(access_token=todoist_token, page_limit=20)",
        'i = [p["project_id"] for p in ps if p["name"] == <project>][0]',
        "print(i)",
    )
    create = "apis.todoist.create_task(project_id=i, title=title, access_token=todoist_token)"
    add = lines("for title in titles:", f"    {create}", COMPLETE)
    opening = log_in("phone", "gmail", "todoist")

    def attempt(contact=contact, find=find, add=add):
        return [opening, contact, date, find, project, add]

    return Draft(
        instruction=f"For each unread Gmail email that my {relationship} sent me in the last 7 days, "
        f"add a task with its subject as title to my Todoist project {projects[0].name}.",
        given={"relationship": relationship, "project": projects[0].name},
        private_data={"titles": wanted, "project_id": projects[0].id},
        num_api_calls=5 + 1 + PAGES + 1 + len(wanted) + 1,
        solution=attempt(),
        wrong={
            "wrong_person": attempt(contact=contact.replace("relationship=<relationship>, ", "")),
            "read_ones_too": attempt(find=find.replace(' and not t["read"]', "")),
            "all_time": attempt(find=find.replace('t["created_at"] >= start and ', "")),
            "wrong_project": attempt(add=add.replace("project_id=i", "project_id=0")),
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("todoist.Task")
    titles = [todo.title for todo in added + updated + removed]
    with test("each wanted email has a task with its subject"):
        test.case(set(private_data.titles) - {todo.title for todo in added}, "==", set())
    with test("no other Todoist task was added, changed or removed"):
        test.case([title for title in titles if title not in private_data.titles or titles.count(title) > 1], "==", [])
    with test("every new task is in the right project"):
        test.case({todo.project_id for todo in added} - {private_data.project_id}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["todoist.Task"])
