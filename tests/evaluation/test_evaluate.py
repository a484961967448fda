"""A whole evaluation by command: a scripted endpoint, real worlds, and AppWorld's own commands on what it leaves."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from appworld_tasks.splits import TaskInfo, load_split
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.store.rollout_files import read_rollouts
from loop_rl.store.run_dir import RunDir

pytestmark = pytest.mark.slow(160)

REPO = Path(__file__).resolve().parents[2]
SPLIT = "test_normal"  # `appworld pack` takes test splits only
NAME = "Evaluate.Test"


class ScriptedEndpoint:
    """Answers chat completions: looks around in the first turn, then gives the answer of the task's ground truth.

    The last task of each scenario gets a wrong one. `patience` requests are answered; then it breaks.
    """

    def __init__(self, tasks: list[TaskInfo], root: Path) -> None:
        self.patience = 10**9
        self.asked: list[str] = []
        """Task id of each request."""
        self.keys: set[str | None] = set()
        self._tasks = tasks
        self._root = root
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.keys.add(self.headers["Authorization"])
                status, answer = endpoint.answer(request)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: dict) -> tuple[int, dict]:
        texts = [message["content"] for message in request["messages"]]
        # Two tasks may have one instruction; then other people give them.
        found = [t.task_id for t in self._tasks if t.instruction in texts and t.supervisor["email"] in texts[0]]
        task_id = found[0] if found else None
        if task_id:
            self.asked.append(task_id)
            if len(self.asked) > self.patience:
                return 400, {"error": "out of patience"}
        code = "print(apis.supervisor.show_profile()['email'])"
        if task_id and request["messages"][-2]["role"] == "assistant":
            truth = self._root / "data" / "tasks" / task_id / "ground_truth" / "answer.json"
            answer = "wrong" if task_id.endswith("_3") else json.loads(truth.read_text())
            code = f"apis.supervisor.complete_task(answer={answer!r})"
        message = {"role": "assistant", "content": f"I assume so.\n```python\n{code}\n```"}
        num_tokens = sum(len(text) for text in texts)
        return 200, {"choices": [{"message": message}], "usage": {"prompt_tokens": num_tokens, "completion_tokens": 9}}


@pytest.fixture(scope="module")
def tasks(appworld_root) -> list[TaskInfo]:
    return load_split(appworld_root, SPLIT)


@pytest.fixture(scope="module")
def endpoint(appworld_root, tasks) -> Iterator[ScriptedEndpoint]:
    endpoint = ScriptedEndpoint(tasks, appworld_root)
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, appworld_root, endpoint):
    """(run, what to call to evaluate with more arguments)."""
    runs_dir = tmp_path_factory.mktemp("runs")
    settings = [f"name={NAME}", f"runs_dir={runs_dir}", f"tasks.root={appworld_root}", "tasks.num_workers=2"]
    command = [sys.executable, "-m", "loop_rl.evaluate", "--config", "configs/tiny.yaml", *settings]
    command += ["agent.max_context_tokens=4096", "--model", "any", "--endpoint", endpoint.url, "--split", SPLIT]

    def evaluate(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *arguments], cwd=REPO, capture_output=True, text=True, timeout=300)

    return RunDir(runs_dir / NAME), evaluate


def appworld(*arguments: str) -> str:
    command = [REPO / ".venv-appworld" / "bin" / "appworld", *arguments]
    return subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True, timeout=300).stdout


def test_an_interrupted_evaluation_goes_on_with_what_is_missing(evaluation, endpoint, tasks):
    run, evaluate = evaluation
    endpoint.patience = 2 * len(tasks) - 3
    result = evaluate()
    assert result.returncode == 1
    assert f"endpoint {endpoint.url} answers /chat/completions with status 400" in result.stderr
    assert not run.evaluation_file(0, SPLIT).exists()
    done = {path.stem for path in run.eval_rollouts.glob(".*/*.parquet")}
    assert 0 < len(done) < len(tasks)

    endpoint.patience, endpoint.asked = 10**9, []
    result = evaluate()
    assert result.returncode == 0, result.stderr
    assert done.isdisjoint(endpoint.asked)
    assert not list(run.eval_rollouts.glob(".*"))
    for text in ("TGC", "SGC", "turns a task", "ended: completed", "tampered: 0", "wrong answer", "show_api_doc calls"):
        assert text in result.stdout

    asked = len(endpoint.asked)
    assert evaluate().stdout.strip() == result.stdout.strip()  # shows it again
    assert len(endpoint.asked) == asked and endpoint.keys == {None}


def test_figures_are_those_of_the_script(evaluation, tasks, appworld_root):
    run, _ = evaluation
    rollouts = read_rollouts(run.evaluation_file(0, SPLIT).with_suffix(".parquet"))
    assert [rollout.task_id for rollout in rollouts] == [task.task_id for task in tasks]
    assert not any(turn.context_ids or turn.action_ids or turn.logprobs for r in rollouts for turn in r.turns)
    figures = json.loads(run.evaluation_file(0, SPLIT).read_text())
    truth = appworld_root / "data" / "tasks"
    questions = [
        t for t in tasks if json.loads((truth / t.task_id / "ground_truth/answer.json").read_text()) is not None
    ]
    right = [task for task in questions if not task.task_id.endswith("_3")]
    assert {r.task_id for r in rollouts if r.success} == {task.task_id for task in right}
    assert figures["TGC"]["all"]["value"] == len(right) / len(tasks)
    assert figures["SGC"]["all"]["value"] == 0
    assert (figures["turns_per_task"], figures["action_tokens_per_task"]) == (2, 18)
    assert figures["end_reasons"] == {"completed": len(tasks)} and figures["num_tampered"] == 0
    wrong = sum(any("answer" in failure for failure in r.failures) for r in rollouts)
    assert figures["failures"]["wrong answer"] == {"failed": wrong, "successful": 0}
    assert figures["behaviour"]["assumptions"] == 2 * len(tasks)
    assert figures["num_failed"] == len(tasks) - len(right)
    assert sum(num for _, num in figures["failed_tests"]) == sum(len(r.failures) for r in rollouts)


def test_appworld_prints_the_same_figures_and_packs_them(evaluation, appworld_root):
    run, _ = evaluation
    figures = json.loads(run.evaluation_file(0, SPLIT).read_text())
    experiment, root = figures["experiment"], ["--root", str(appworld_root)]
    appworld("evaluate", experiment, SPLIT, *root)
    outputs = appworld_root / "experiments" / "outputs" / experiment
    theirs = json.loads((outputs / "evaluations" / f"{SPLIT}.json").read_text())["aggregate"]
    assert theirs["task_goal_completion"] == round(100 * figures["TGC"]["all"]["value"], 1)
    assert theirs["scenario_goal_completion"] == round(100 * figures["SGC"]["all"]["value"], 1)
    about = ["LOOP", "Leave-One-Out PPO", "tiny", "scripted", "https://example.com"]
    appworld("pack", experiment, SPLIT, *about, *root)
    assert (outputs / "leaderboard.bundle").stat().st_size > 1000


def test_experiments_have_names_that_can_be_packed(evaluation):
    run, _ = evaluation
    assert (
        make_part(ENVIRONMENT, run.config).outputs_name(run.config.name, 12, "test_challenge")
        == "evaluate-test-v000012_test_challenge"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "configs/tiny.yaml", "--version", "3"], "--version goes with --run-dir"),
        (["--run-dir", "runs/x", "seed=3"], "a run has its model and settings"),
        (["--run-dir", "runs/none"], "runs/none: not a run directory"),
        (["--config", "configs/tiny.yaml", "--endpoint", "localhost:8000"], "evaluation.endpoint"),
        (["--config", "configs/tiny.yaml", "--split", "tset_normal"], "did you mean 'test_normal'?"),
    ],
)
def test_what_a_user_gets_wrong(arguments, message, appworld_root):
    root = [f"tasks.root={appworld_root}"] if "--config" in arguments else []
    command = [sys.executable, "-m", "loop_rl.evaluate", *arguments, *root]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0 and message in result.stderr, result.stderr
