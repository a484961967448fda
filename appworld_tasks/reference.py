"""What AppWorld's own data says beside the tasks: which APIs answer in pages, which tests doing nothing passes, solutions."""

from __future__ import annotations

import ast
import io
import json
import re
import textwrap
import tokenize
from dataclasses import dataclass
from pathlib import Path

from appworld_tasks.roots import GROUND_TRUTH, check_root


@dataclass(frozen=True)
class PagedApi:
    """An API that lists things a page at a time."""

    method: str
    """GET, mostly."""
    path: re.Pattern[str]
    """Of its whole URL path; ids in it match anything."""
    page_limit: int
    """Items of a page when the call does not say."""


def paged_apis(root: str | Path) -> list[PagedApi]:
    """All APIs that take `page_index`, by AppWorld's API documentation. Raises RootError."""
    documentation = check_root(root) / "data" / "api_docs" / "standard"
    apis = []
    for file in sorted(documentation.glob("*.json")):
        for api in json.loads(file.read_text()).values():
            defaults = {parameter["name"]: parameter["default"] for parameter in api["parameters"]}
            if "page_index" in defaults:
                parts = re.split(r"\{\w+\}", api["path"])
                path = re.compile("[^/]+".join(re.escape(part) for part in parts))
                apis.append(PagedApi(api["method"].upper(), path, defaults["page_limit"]))
    return apis


def no_op_tests(root: str | Path, task_id: str) -> frozenset[str]:
    """Requirements of a task that hold when nothing is done: that no other data changes, say. Raises RootError."""
    file = check_root(root) / "data" / "tasks" / task_id / GROUND_TRUTH / "test_data.json"
    tests = json.loads(file.read_text()) if file.exists() else None
    return frozenset(test["requirement"] for test in tests or () if test["label"] == "no_op_pass")


@dataclass(frozen=True)
class SolutionStep:
    """One top-level statement of a reference solution."""

    comment: str
    """Its comments, joined."""
    code: str
    """Without them."""


def solution_steps(root: str | Path, task_id: str) -> list[SolutionStep] | None:
    """The reference solution of a task, a top-level statement or loop a step, as arXiv 2502.01600 (C.1) cuts them; None where
    the data has none. Raises RootError."""
    file = check_root(root) / "data" / "tasks" / task_id / GROUND_TRUTH / "solution.py"
    return steps_of(file.read_text()) if file.exists() else None


def steps_of(source: str) -> list[SolutionStep]:
    """Of a module that defines `solution(apis, ...)`. A comment belongs to the statement that it stands in, or before."""
    lines = source.splitlines()
    (function,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "solution"
    )
    comments = {
        token.start[0]: (token.start[1], token.string.lstrip("#").strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    steps, after = [], function.lineno
    for statement in function.body:
        first, last = after + 1, statement.end_lineno
        code = []
        for number in range(statement.lineno, last + 1):
            line = lines[number - 1][: comments[number][0]].rstrip() if number in comments else lines[number - 1]
            if line.strip() or number not in comments:
                code.append(line)
        comment = " ".join(comments[number][1] for number in range(first, last + 1) if number in comments)
        steps.append(SolutionStep(comment, textwrap.dedent("\n".join(code))))
        after = last
    return steps
