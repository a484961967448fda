"""What the agent is told: the messages that come before its first action.

`full` teaches an instruction-tuned model the rules and one worked example, as a conversation of the same form as the
real one. `compact` states the task only, for a model that has learned the format from demonstrations.
"""

from __future__ import annotations

from loop_rl.data.messages import Message, message
from loop_rl.environments.protocol import Task

_RULES = """\
You are an agent that gets everyday digital chores done for one person, your supervisor, by writing Python.

How a turn works
- Think briefly in plain text, then write exactly one code block, opened by a line ```python and closed by a line ```. \
{blocks} {no_code}
- The next user message is what your code printed, or the error that it raised. Nothing is echoed: print what you want \
to see. Very long output loses its middle, so print only what you need.
- It is one Python session: variables, functions and imports live on from turn to turn.

What you can use
- An object `apis` is ready. Every action in every app is a function `apis.<app>.<function>(...)`, called with keyword \
arguments; it returns plain dicts, lists, strings and numbers.
- Do not guess function names or arguments. Look them up:
  apis.api_docs.show_app_descriptions() lists the apps;
  apis.api_docs.show_api_descriptions(app_name="...") lists the functions of one app;
  apis.api_docs.show_api_doc(app_name="...", api_name="...") shows arguments, defaults and the form of the answer.
- `apis.supervisor` knows your supervisor: profile, addresses, payment cards and account passwords. \
Most apps want an access token from their login function; the user name is the supervisor's email address, or, for the \
phone app, the phone number.
- The contacts in the phone app hold your supervisor's friends, family and colleagues and how they are related.
- Functions that list things return one page at a time. When you need all of them, go on with page_index 0, 1, 2, ... \
until a page comes back empty.

How to work
- Take small steps at first; read what comes back before you rely on it. When something fails, read the error and the \
documentation, and try another way.
- Use only the apps. Do not read or write files of this computer, do not reach for the internet, and take the date \
and time from the session.
- "The file system" means the file_system app. "My account", "my playlist" and the like are your supervisor's.
- Do what was asked and nothing besides: no extra messages, purchases or clean-ups. Nobody answers questions; decide \
for yourself.
- When everything is done, call apis.supervisor.complete_task(). If the task asks for a piece of information, pass it: \
apis.supervisor.complete_task(answer=...), as a bare number, word or name without a sentence around it. \
If it cannot be done, apis.supervisor.complete_task(status="fail")."""

# (code with its thought, what it printed); app and API names are AppWorld's, people and values invented.
_EXAMPLE_TASK = "How many of the songs in my Spotify library have I liked?"
_EXAMPLE_TURNS = [
    (
        "I do not know Spotify's functions yet, so I list them first.",
        'for api in apis.api_docs.show_api_descriptions(app_name="spotify"):\n'
        '    if "song" in api["name"] or api["name"] == "login":\n'
        '        print(api["name"], "-", api["description"])',
        "login - Login to your account.\n"
        "search_songs - Search songs with a query.\n"
        "show_song - Get details of a specific song.\n"
        "show_song_library - Get a list of songs in the user's song library.\n"
        "show_liked_songs - Get a list of songs you have liked.\n",
    ),
    (
        "show_song_library and show_liked_songs look right. I read how to call them and how to log in.",
        'for name in ["login", "show_song_library", "show_liked_songs"]:\n'
        '    doc = apis.api_docs.show_api_doc(app_name="spotify", api_name=name)\n'
        '    print(name, [(p["name"], p["required"], p["default"]) for p in doc["parameters"]])\n'
        '    print(doc["response_schemas"]["success"])',
        "login [('username', True, None), ('password', True, None)]\n"
        "{'access_token': 'string', 'token_type': 'string'}\n"
        "show_song_library [('access_token', True, None), ('page_index', False, 0), ('page_limit', False, 5)]\n"
        "[{'song_id': 1, 'title': 'string', 'added_at': '2019-01-01T00:00:00'}]\n"
        "show_liked_songs [('access_token', True, None), ('page_index', False, 0), ('page_limit', False, 5)]\n"
        "[{'song_id': 1, 'title': 'string', 'liked_at': '2019-01-01T00:00:00'}]\n",
    ),
    (
        "The password is among the supervisor's account passwords, the user name is the email address.",
        'email = apis.supervisor.show_profile()["email"]\n'
        'passwords = {a["account_name"]: a["password"] for a in apis.supervisor.show_account_passwords()}\n'
        'token = apis.spotify.login(username=email, password=passwords["spotify"])["access_token"]\n'
        "print(apis.spotify.show_song_library(access_token=token)[:1])",
        "[{'song_id': 27, 'title': 'Paper Lanterns', 'added_at': '2022-11-05T18:20:41'}]\n",
    ),
    (
        "Both lists come in pages, so I collect every page, then count the songs that are in both.",
        "def all_pages(function):\n"
        "    items, page = [], 0\n"
        "    while batch := function(access_token=token, page_index=page, page_limit=20):\n"
        "        items += batch\n"
        "        page += 1\n"
        "    return items\n"
        "\n"
        'library = {song["song_id"] for song in all_pages(apis.spotify.show_song_library)}\n'
        'liked = {song["song_id"] for song in all_pages(apis.spotify.show_liked_songs)}\n'
        "print(len(library), len(liked), len(library & liked))",
        "43 61 17\n",
    ),
    (
        "17 songs are in the library and liked. The task asks for the number.",
        "apis.supervisor.complete_task(answer=17)",
        "Execution successful.",
    ),
]


def build_prompt(style: str, task: Task, all_blocks: bool = False, no_code_goes_on: bool = False) -> list[Message]:
    """Messages before the first action.

    Args:
        style: `full` or `compact`.
        all_blocks: all code blocks of a turn are run, and not only its first.
        no_code_goes_on: a turn without code does not end the episode.
    """
    if style == "compact":
        return _compact(task)
    rules = _RULES.format(
        blocks="All blocks of a turn are run together." if all_blocks else "Only the first block of a turn is run.",
        no_code="A turn without a block does nothing."
        if no_code_goes_on
        else "A turn without a complete block ends the episode.",
    )
    return _full(task, rules)


def _full(task: Task, rules: str) -> list[Message]:
    example_person = {
        "first_name": "Dana",
        "last_name": "Whitlock",
        "email": "dana.whitlock@mail.example",
        "phone_number": "5550142271",
    }
    messages = [message("system", rules)]
    messages.append(message("user", _full_task(example_person, "2023-03-14T09:30:00", _EXAMPLE_TASK)))
    for thought, code, output in _EXAMPLE_TURNS:
        messages.append(message("assistant", f"{thought}\n```python\n{code}\n```"))
        messages.append(message("user", output))
    # The example's last output and the real task are one user message: roles have to alternate.
    messages[-1]["content"] += "\n\nThat task is over. A new session begins; nothing of the old one is left.\n\n" + (
        _full_task(task.supervisor, task.datetime, task.instruction)
    )
    return messages


def _full_task(supervisor: dict[str, str], datetime: str, instruction: str) -> str:
    name = f"{supervisor['first_name']} {supervisor['last_name']}"
    return (
        f"Your supervisor is {name} (email {supervisor['email']}, phone number {supervisor['phone_number']}). "
        f"It is {datetime}.\n\nTask: {instruction}"
    )


def _compact(task: Task) -> list[Message]:
    person = task.supervisor
    about = (
        f"{person['first_name']} {person['last_name']} {person['email']} {person['phone_number']} {task.datetime[:10]}"
    )
    return [message("system", about), message("user", task.instruction)]
