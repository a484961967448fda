"""What agents do every day, for tests/appworld_tasks/test_honest_idioms.py: {name: turns}. Every turn prints something to compare."""

from __future__ import annotations

IDIOMS: dict[str, list[str]] = {
    "names persist": ["x = 20", "x += 1\nprint(x)"],
    "the last expression is not shown": ["1 + 1"],
    "nothing printed": ["x = 1"],
    "print of a list and of a dict is JSON": ["print([1, 'a', None])\nprint({'a': [1.5, True]})", "print([{'n': n} for n in range(40)])"],
    "print with several arguments": ["print('a', 1, [2], sep='|', end='!\\n')"],
    "functions and closures": ["def adder(n):\n    return lambda x: x + n", "print([adder(2)(x) for x in range(5)])"],
    "classes and dataclass-like objects": ["class Box:\n    def __init__(self, n): self.n = n\n    def __repr__(self): return f'Box({self.n})'", "print(Box(3), [Box(n) for n in range(2)])"],
    "generators and recursion": ["def walk(n):\n    yield n\n    if n: yield from walk(n - 1)\nprint(list(walk(5)))"],
    "comprehensions and sorting": ["print(sorted({w: len(w) for w in 'to be or not'.split()}.items(), key=lambda p: (-p[1], p[0])))"],
    "order of a set": ["print({'pear', 'apple', 'fig'}, list({'x', 'y', 'z'}))"],
    "while and break": ["n = 0\nwhile True:\n    n += 1\n    if n > 4: break\nprint(n)"],
    "try and except": ["try:\n    apis.spotify.login(username='nobody@x.com', password='x')\nexcept Exception as error:\n    print(type(error).__name__, error)"],
    "an error of an API that nobody catches": ["print('lost')\napis.spotify.show_song(song_id=-1)", "print('goes on')"],
    "an error of the code": ["def f():\n    return 1 / 0\nf()", "print([][1])", "print({}['a'])", "undefined_name"],
    "assert and raise": ["assert 1 == 2, 'no'", "raise ValueError('why')"],
    "syntax error": ["print('a'", "x = = 1", "print('still here')"],
    "no code": ["", "# a comment"],
    "imports that AppWorld names": ["import json, math, re, itertools, random, calendar\nfrom collections import Counter, defaultdict\nfrom copy import deepcopy\nfrom functools import reduce\nprint(Counter('hello'), math.pi, reduce(lambda a, b: a * b, range(1, 6)), list(itertools.chain([1], [2])))"],
    "other imports that AppWorld allows": ["import string, textwrap, operator, heapq, bisect, fractions, enum, uuid, difflib\nfrom typing import Any\nprint(string.digits, heapq.nsmallest(2, [3, 1, 2]), fractions.Fraction(1, 3), bisect.bisect([1, 2], 2), uuid.UUID(int=7))"],
    "imports that AppWorld refuses": ["import subprocess", "import requests", "from socket import socket"],
    "functions that AppWorld refuses": ["open('x')", "exit()", "import os\nos.system('ls')"],
    "input": ["x = input('sure?')"],
    "date and time stand still": ["import datetime, time\nprint(datetime.datetime.now(), time.time(), DateTime.now(), time.monotonic() - time.monotonic())", "print(DateTime.now().subtract(days=3).format('YYYY-MM-DD'), Date.today(), calendar.month_name[2])"],
    "dates compared and formatted": ["d = pendulum.parse('2023-05-18T12:00:00')\nprint(d.add(months=1), d.start_of('week'), d < DateTime.now(), d.day_of_week == THURSDAY)"],
    "random numbers": ["random.seed(3)\nprint(random.random(), random.choice('abc'), random.sample(range(9), 3))"],
    "random numbers before a login": ["print(random.random())", "@LOGIN", "print(token)"],
    "regular expressions": ["print(re.findall(r'(\\w+)@(\\w+)', 'a@b c@d'), re.sub(r'\\d', '#', 'a1b2'))"],
    "text of all languages": ["print('żółć 中文 🙂', len('🙂'), '\\u00e9'.encode())", "naïve = 'ü'\nprint(naïve.upper())"],
    "long output": ["print('\\n'.join(str(n) for n in range(5000)))"],
    "deep copies and JSON": ["from copy import deepcopy\nd = {'a': [1]}\ne = deepcopy(d)\ne['a'].append(2)\nprint(json.dumps([d, e]), json.loads('{\"x\": 1}')['x'])"],
    "descriptions of apps and APIs": ["print(apis.api_docs.show_app_descriptions())", "print(apis.api_docs.show_api_descriptions(app_name='spotify')[:5])", "print(apis.api_docs.show_api_doc(app_name='spotify', api_name='login'))", "print(apis.api_docs.search_api_docs(query='playlist')[:3])"],
    "who the supervisor is": ["print(apis.supervisor.show_profile())", "print(apis.supervisor.show_addresses(), apis.supervisor.show_payment_cards())"],
    "login and pages until the last": ["@LOGIN", "page, songs = 0, []\nwhile found := apis.spotify.show_song_library(access_token=token, page_index=page, page_limit=5):\n    songs += found\n    page += 1\nprint(page, len(songs), songs[:2])"],
    "login twice and out": ["@LOGIN", "@LOGIN", "print(apis.spotify.logout(access_token=token))", "print(apis.spotify.show_song_library(access_token=token))"],
    "a helper that calls an API by name": ["def call(app, name, **arguments):\n    return getattr(getattr(apis, app), name)(**arguments)\nprint(call('supervisor', 'show_profile')['first_name'])"],
    "an API called with too little, too much and wrong": ["apis.spotify.show_song()", "print(apis.supervisor.show_profile(extra=1))", "apis.spotify.no_such_api()", "apis.no_such_app.login()"],
    "a change that is not asked for": ["@LOGIN", "print(apis.spotify.create_playlist(title='Mine', access_token=token))", "apis.supervisor.complete_task()"],
    "an account of another kind": ["print(apis.simple_note.signup(first_name='A', last_name='B', email='new.one@example.com', password='pass1234'))", "apis.supervisor.complete_task(status='fail')"],
    "answers of all kinds": ["apis.supervisor.complete_task(answer=3.5)", "apis.supervisor.complete_task(answer='again')"],
    "giving up": ["print(apis.supervisor.complete_task(status='fail'))"],
    "the honest solution": ["@SOLUTION"],
    "the honest solution after mistakes": ["1 / 0", "try:\n    apis.venmo.login(username='x', password='y')\nexcept Exception:\n    pass", "@SOLUTION"],
}  # fmt: skip
LOGIN = """
password = next(a["password"] for a in apis.supervisor.show_account_passwords() if a["account_name"] == "spotify")
token = apis.spotify.login(username=apis.supervisor.show_profile()["email"], password=password)["access_token"]
"""
