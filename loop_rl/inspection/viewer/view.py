"""Read the rollouts of a run in a browser, while it trains or afterwards.

    loop_rl view runs/tiny                  a free port; opens the browser
    loop_rl view runs/tiny --port 8000 --no-browser

Only this machine can reach the page; from another one, forward the port: `ssh -L 8000:127.0.0.1:8000 machine`. The run
is never changed, save for `.index.sqlite` in it, which may be deleted. Needs no internet.
"""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from loop_rl.config.parts import ENVIRONMENT, find_part
from loop_rl.data.rollout import EndReason
from loop_rl.inspection.pages import templates
from loop_rl.inspection.viewer.index import SAMPLED, Index
from loop_rl.inspection.viewer.listing import Lister, QueryError, parse_query
from loop_rl.inspection.viewer.reading import Unreadable, read_listed, read_update
from loop_rl.inspection.viewer.text import highlighted, highlighting_css, split_action
from loop_rl.inspection.viewer.tokens import NoTokenizer, describe_tokens, load_decoder, scales, why_missing
from loop_rl.machine.command import run_command
from loop_rl.store.run_dir import RunDir

HOST = "127.0.0.1"
_HEADERS = {
    # Nothing but our own files is loaded and no inline script or style runs, whatever a rollout holds.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_NUM_PROBLEMS_SHOWN = 100


class Viewer:
    """The pages over one run.

    Raises:
        ConfigError: the run's config.yaml cannot be used.
    """

    def __init__(self, run: RunDir, index: Index) -> None:
        self._run = run
        self._index = index
        self._config = run.config
        environment = find_part(ENVIRONMENT, self._config.tasks.environment)
        self._end_reasons = [*environment.end_reasons, *map(str, EndReason)]
        self._lister = Lister(index)
        self._scales = scales(self._config.algorithm)
        self._templates = templates("loop_rl.inspection.viewer")
        self._templates.filters |= {"highlighted": highlighted, "path": lambda text: quote(text, safe=""), "utc": _utc}
        self._templates.globals |= {"split_action": split_action, "run_name": self._config.name, "SAMPLED": SAMPLED}
        self._templates.globals["label_name"] = environment.label_name

    def app(self, on_started: Callable[[], None] = lambda: None) -> Starlette:
        """The ASGI application; the index follows the run for as long as it is up.

        Args:
            on_started: called once it is.
        """

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            stop = threading.Event()
            follower = threading.Thread(target=self._index.follow, args=(stop,), daemon=True)
            follower.start()
            on_started()
            yield
            stop.set()
            follower.join(timeout=5)

        routes = [
            Route("/", self._list),
            Route("/rollout/{rollout_id:path}", self._rollout),
            Route("/group/{group_id:int}", self._group),
            Route("/status", self._status),
            Route("/static/code.css", lambda request: PlainTextResponse(highlighting_css(), media_type="text/css")),
            Mount("/static", StaticFiles(packages=[("loop_rl.inspection.viewer", "static")])),
        ]
        errors = dict.fromkeys((HTTPException, QueryError, Unreadable, sqlite3.Error), self._error)
        # A page of another site that a name server points at this machine is refused by its name.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        return Starlette(routes=routes, exception_handlers=errors, middleware=[hosts], lifespan=lifespan)

    def _list(self, request: Request) -> HTMLResponse:
        asked = dict(request.query_params)
        query = parse_query(asked, self._end_reasons)
        problems, num_problems = self._index.problems(_NUM_PROBLEMS_SHOWN)
        return self._page(
            "view_list.html",
            generation=self._lister.generation(),
            listing=self._lister.find(query),
            query=query,
            asked=asked,
            address=lambda **changes: "?" + urlencode({**asked, **changes}),
            choices={column: self._lister.choices(column) for column in ("source", "task_id", "family", "label")},
            end_reasons=self._end_reasons,
            problems=problems,
            num_problems=num_problems,
        )

    def _rollout(self, request: Request) -> HTMLResponse:
        rollout_id = request.path_params["rollout_id"]
        row = self._lister.rollout(rollout_id)
        if row is None:
            raise HTTPException(404, f"no rollout {rollout_id} in {self._run.path} ({self._progress()})")
        [rollout] = read_listed(self._run, [row])
        update = read_update(self._run, row)
        prompt, turns, no_tokens = "", [], ""
        try:
            decoder = load_decoder(self._config.model.path)
            turns = describe_tokens(rollout, update, self._config.algorithm, decoder, self._scales)
            if rollout.turns:
                prompt = decoder.decode(rollout.turns[0].context_ids, skip_special_tokens=False)
        except NoTokenizer as error:
            no_tokens = str(error)
        before, after = self._lister.neighbours(rollout_id)
        return self._page(
            "view_rollout.html",
            generation=self._lister.generation(),
            rollout=rollout,
            row=row,
            update=update,
            prompt=prompt,
            tokens=turns,
            no_tokens=no_tokens,
            why_missing=why_missing(rollout, update, self._config.algorithm),
            scales=self._scales,
            before=before,
            after=after,
        )

    def _group(self, request: Request) -> HTMLResponse:
        group_id = request.path_params["group_id"]
        rows = self._lister.group(group_id) if group_id < 2**31 else []
        if not rows:
            raise HTTPException(404, f"no training group {group_id} in {self._run.path} ({self._progress()})")
        rollouts = read_listed(self._run, rows)
        tests = dict.fromkeys(test for rollout in rollouts for test in rollout.passes + rollout.failures)
        return self._page(
            "view_group.html",
            generation=self._lister.generation(),
            group_id=group_id,
            rows=rows,
            rollouts=rollouts,
            tests=list(tests),
            group_size=self._config.sampler.rollouts_per_task,
            before=group_id - 1 if self._lister.group(group_id - 1) else None,
            after=group_id + 1 if self._lister.group(group_id + 1) else None,
        )

    def _status(self, request: Request) -> JSONResponse:
        return JSONResponse({"progress": self._progress(), "generation": self._lister.generation()}, headers=_HEADERS)

    def _error(self, request: Request, error: Exception) -> HTMLResponse:
        if isinstance(error, HTTPException):
            status, message = error.status_code, error.detail
        elif isinstance(error, sqlite3.Error):
            status = 503
            message = (
                f"{self._index.path}: the index cannot be read ({error}); start `loop_rl view` again to make it anew"
            )
        else:
            status, message = (400 if isinstance(error, QueryError) else 410), str(error)
        return self._page("view_error.html", status, message=message)

    def _page(self, template: str, status: int = 200, **values: object) -> HTMLResponse:
        html = self._templates.get_template(template).render(values, progress=self._progress())
        return HTMLResponse(html, status, headers=_HEADERS)

    def _progress(self) -> str:
        progress = self._index.progress
        if self._index.stopped:
            return self._index.stopped
        if progress is None:
            return "looking for rollouts"
        if progress.done < progress.total:
            return f"indexing {progress.done:,} of {progress.total:,} files"
        return f"{progress.total:,} files indexed"


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="a run directory, live or finished")
    parser.add_argument("--port", type=int, default=0, help="port on this machine (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    args = parser.parse_args()
    return run_command(lambda: _serve(args), "stopped")


def _serve(args: argparse.Namespace) -> None:
    run = RunDir.open(args.run_dir)
    listening = _listen(args.port)
    url = f"http://{HOST}:{listening.getsockname()[1]}/"

    def announce() -> None:
        print(f"{run.path}: {url}  (Ctrl-C ends it)", flush=True)
        if sys.stdout.isatty() and not args.no_browser:
            # A browser in the terminal would not return.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    app = Viewer(run, Index(run)).app(announce)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    server.run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) else "there are ports 1 to 65535"
        raise ValueError(f"--port {port}: cannot listen there ({reason}); choose another, or leave it out") from error


if __name__ == "__main__":
    sys.exit(main())
