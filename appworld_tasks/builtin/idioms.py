"""Code that solutions share, always written the same way."""

COMPLETE = "apis.supervisor.complete_task()"
GIVE_UP = 'apis.supervisor.complete_task(status="fail")'


def lines(*parts: str) -> str:
    """Join statements into one turn."""
    return "\n".join(parts)


def log_in(*apps: str) -> str:
    """Look up the supervisor's accounts and log in to each of `apps`; the token of venmo is `venmo_token`.

    Makes 2 + len(apps) API calls, and leaves `me` (the supervisor's profile) and `pw` (passwords by app).
    """
    logins = []
    for app in apps:
        username = "phone_number" if app == "phone" else "email"
        logins.append(
            f'{app}_token = apis.{app}.login(username=me["{username}"], password=pw["{app}"])["access_token"]'
        )
    return lines(
        "me = apis.supervisor.show_profile()",
        'pw = {a["account_name"]: a["password"] for a in apis.supervisor.show_account_passwords()}',
        *logins,
    )


PAGES = 3
PAGE_LOOP = f"for p in range({PAGES})"
FIRST_PAGE_ONLY = "for p in range(1)"


def all_pages(variable: str, api: str, arguments: str) -> str:
    """Collect every page of a listing, up to 60 entries: `PAGES` API calls.

    all_pages("ts", "venmo.show_transactions", 'direction="sent"') gives
    `ts = [x for p in range(3) for x in apis.venmo.show_transactions(direction="sent", access_token=venmo_token, ...)]`.
    """
    app = api.split(".")[0]
    arguments = ", ".join(filter(None, [arguments, f"access_token={app}_token", "page_index=p", "page_limit=20"]))
    return f"{variable} = [x {PAGE_LOOP} for x in apis.{api}({arguments})]"


def submit(expression: str) -> str:
    """The last turn of a question."""
    return f"apis.supervisor.complete_task(answer={expression})"


# An act that nobody asked for, by app: what every test for collateral damage has to notice.
UNASKED = {
    "amazon": "apis.amazon.add_product_to_wish_list(product_id=1, access_token=amazon_token)",
    "file_system": 'apis.file_system.create_directory(directory_path="~/extra/", access_token=file_system_token)',
    "gmail": 'apis.gmail.create_draft(recipient_email_addresses=[me["email"]], body="Extra", access_token=gmail_token)',
    "phone": 'apis.phone.create_alarm(time="05:05", label="extra", access_token=phone_token)',
    "simple_note": 'apis.simple_note.create_note(title="Extra", content="", access_token=simple_note_token)',
    "splitwise": 'apis.splitwise.update_account_name(last_name="Extra", access_token=splitwise_token)',
    "spotify": 'apis.spotify.create_playlist(title="Extra", access_token=spotify_token)',
    "todoist": 'apis.todoist.create_project(name="Extra", access_token=todoist_token)',
    "venmo": 'apis.venmo.update_account_name(last_name="Extra", access_token=venmo_token)',
}
