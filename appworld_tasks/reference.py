"""What AppWorld's own data says beside the tasks: which APIs answer in pages, which tests doing nothing passes."""

from __future__ import annotations

import json
import re
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
