"""Code that solutions and typical mistakes share, always written the same way so that a small model can learn it."""

COMPLETE = "apis.supervisor.complete_task()"
GIVE_UP = 'apis.supervisor.complete_task(status="fail")'
LOGIN_CALLS = 3


def log_in(app: str) -> str:
    """The first turn of an episode: look up the supervisor's account and log in to `app`."""
    username = "phone_number" if app == "phone" else "email"
    return (
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
