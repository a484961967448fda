"""Two ways to write down how a task is done, made from the one solution that its scenario gives.

`careful` is how a good agent works: it lists an app's functions and reads each one's documentation before its first use,
takes one step a turn, and now and then makes a slip, reads the error and mends it. `brief` is for a policy too small
to spell names or to read documentation: it takes the instruction's words by their position, which hundreds of times
smaller models learn than copying.
"""

import random
import re
from dataclasses import dataclass

from appworld_tasks.builtin.idioms import FIRST_PAGE_ONLY, GIVE_UP, PAGE_LOOP, UNASKED, lines
from appworld_tasks.builtin.scenario import Draft

_MARKER = re.compile(r"<([a-z][a-z_0-9]*)>")
_CALL = re.compile(r"apis\.(\w+)\.(\w+)\(")
_TOKEN_ARGUMENT = re.compile(r",? ?access_token=\w+_token,? ?")
_STRIPPED = '.,?!:;$"()'
_READ_WORDS = (
    f"w = [x.strip('{_STRIPPED}').removesuffix(\"'s\") "
    'for x in apis.supervisor.show_active_task()["instruction"].split()]'
)
# What somebody who has not looked them up would call the functions.
_GUESSED_VERBS = {"show": "get", "search": "find", "create": "make", "update": "change", "login": "log_in"}


@dataclass(frozen=True)
class Step:
    """One turn of a demonstration: what the agent says, then the code that it runs."""

    thought: str
    code: str


def wrong_solutions(draft: Draft, apps: tuple[str, ...]) -> dict[str, list[str]]:
    """The scenario's own wrong solutions and the careless habits that fit any scenario, by name."""
    *opening, ending = draft.solution
    habits = {
        "gives_up": [draft.solution[0], GIVE_UP],
        "does_more": [*opening, lines(UNASKED[apps[0]], ending)],
    }
    if any(PAGE_LOOP in code for code in draft.solution):
        habits["first_page_only"] = [code.replace(PAGE_LOOP, FIRST_PAGE_ONLY) for code in draft.solution]
    return habits | draft.wrong


def habit_names(draft: Draft, apps: tuple[str, ...]) -> list[str]:
    """Names of those wrong solutions that are habits, not mistakes of this scenario alone."""
    return sorted(wrong_solutions(draft, apps).keys() - draft.wrong.keys())


def with_values(code: str, draft: Draft) -> str:
    """`code` with each `<name>` replaced by the value that the instruction gives.

    Raises ValueError for a name that `given` lacks.
    """
    return _MARKER.sub(lambda match: repr(_given(draft, match[1])), code)


def brief(turns: list[str], draft: Draft) -> list[Step]:
    """`turns` with each `<name>` replaced by the instruction's words, pointed at by position.

    Raises ValueError for a value that is not in the instruction word for word.
    """
    words = [word.strip(_STRIPPED).removesuffix("'s") for word in draft.instruction.split()]
    codes = [_MARKER.sub(lambda match: _pointer(_given(draft, match[1]), words), code) for code in turns]
    return [Step("", lines(_READ_WORDS, codes[0]) if index == 0 else code) for index, code in enumerate(codes)]


def careful(turns: list[str], draft: Draft, rng: random.Random, slip: str | None = None) -> list[Step]:
    """`turns` with documentation read before every API's first use, and at most one slip.

    slip: "guesses_name" calls a function that does not exist before its documentation is read, "forgets_token" calls one
        without its access token; both fail without effect. Where no turn offers the occasion there is no slip.
    """
    steps = [Step("First I look at which apps there are.", "print(apis.api_docs.show_app_descriptions())")]
    codes = [with_values(code, draft) for code in turns]
    slips = {index: wrong for index, code in enumerate(codes) if (wrong := _slip(code, slip)) is not None}
    slipping = rng.choice(sorted(slips)) if slips else None
    seen: set[str] = set()
    for index, code in enumerate(codes):
        if index == slipping and slip == "guesses_name":
            steps.append(Step("I try the function that I would expect.", slips[index]))
        for app, api in dict.fromkeys(_CALL.findall(code)):
            if app not in seen:
                seen.add(app)
                steps.append(_list_functions(app))
            if f"{app}.{api}" not in seen:
                seen.add(f"{app}.{api}")
                steps.append(_read_documentation(app, api))
        if index == slipping and slip == "forgets_token":
            steps.append(Step("I know how to call this now.", slips[index]))
            steps.append(Step("That call lacked the access token; I add it.", code))
        else:
            steps.append(Step("Now the next step." if index else "I begin with logging in.", code))
    return steps


def _slip(code: str, kind: str | None) -> str | None:
    """`code` with a mistake in its first API call, or None where that call has no room for one."""
    call = _CALL.search(code)
    if kind is None or call is None:
        return None
    if kind == "guesses_name":
        verb, _, rest = call[2].partition("_")
        if verb not in _GUESSED_VERBS:
            return None
        guess = "_".join(filter(None, [_GUESSED_VERBS[verb], rest]))
        return code[: call.start(2)] + guess + code[call.end(2) :]
    token = _TOKEN_ARGUMENT.search(code)
    following = _CALL.search(code, call.end())
    if token is None or (following is not None and token.start() > following.start()):
        return None
    separator = ", " if token[0].startswith(",") and token[0].rstrip().endswith(",") else ""
    return code[: token.start()] + separator + code[token.end() :]


def _list_functions(app: str) -> Step:
    code = f'print(apis.api_docs.show_api_descriptions(app_name="{app}"))'
    return Step(f"I need {app}; I list its functions.", code)


def _read_documentation(app: str, api: str) -> Step:
    code = f'print(apis.api_docs.show_api_doc(app_name="{app}", api_name="{api}"))'
    return Step(f"I read how {app}.{api} is called before I use it.", code)


def _given(draft: Draft, name: str) -> str | int:
    if name not in draft.given:
        raise ValueError(f"<{name}> is used in code, but `given` has only {sorted(draft.given)}")
    return draft.given[name]


def _pointer(value: str | int, words: list[str]) -> str:
    wanted = str(value).split()
    for start in range(len(words)):
        if words[start : start + len(wanted)] == wanted:
            if isinstance(value, int):
                return f"int(w[{start}])"
            return f"w[{start}]" if len(wanted) == 1 else f'" ".join(w[{start}:{start + len(wanted)}])'
    raise ValueError(f"{value!r} is not in the instruction word for word: {' '.join(words)}")
