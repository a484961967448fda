"""Code that solutions and typical mistakes share, always written the same way so that a small model can learn it."""

COMPLETE = "apis.supervisor.complete_task()"
GIVE_UP = 'apis.supervisor.complete_task(status="fail")'
LOGIN_CALLS = 4


def log_in(app: str) -> str:
    """The first turn of an episode: read the task's words into `w`, look up the supervisor's account, log in to `app`.

    Later turns take names and titles from `w`: pointing at a word is learned by far smaller models than spelling it.
    """
    username = "phone_number" if app == "phone" else "email"
    return (
        'w = [x.strip(".,?") for x in apis.supervisor.show_active_task()["instruction"].split()]\n'
        "me = apis.supervisor.show_profile()\n"
        'pw = {a["account_name"]: a["password"] for a in apis.supervisor.show_account_passwords()}\n'
        f'token = apis.{app}.login(username=me["{username}"], password=pw["{app}"])["access_token"]'
    )


def submit(expression: str) -> str:
    """The last turn of a question."""
    return f"apis.supervisor.complete_task(answer={expression})"


def lines(*parts: str) -> str:
    """Join statements into one turn."""
    return "\n".join(parts)
