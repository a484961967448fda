"""The viewer over HTTP: what each page says, that agents' text stays inert, and what a reader is told when it goes wrong."""

import html
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from test_index import make_rollout, make_run, updated, write_group

from loop_rl.config.settings import AlgorithmConfig
from loop_rl.data.rollout import Turn
from loop_rl.data.updates import TokenValues
from loop_rl.inspection.inert import inert
from loop_rl.inspection.viewer.index import Progress
from loop_rl.inspection.viewer.text import highlighted, split_action
from loop_rl.inspection.viewer.tokens import load_decoder, pieces, scales
from loop_rl.inspection.viewer.view import Viewer
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import write_updates

pytestmark = pytest.mark.slow(35)

REPO = Path(__file__).resolve().parents[2]
TINY = str(REPO / "models" / "tiny")
ACTION = "Look first.\n```python\nprint(1)\n```"


def client_of(run: RunDir, index=None) -> TestClient:
    """A client of the pages as they are now; the index is not followed."""
    return TestClient(Viewer(run, index or updated(run)).app(), base_url="http://127.0.0.1")


def make_turn(text: str = ACTION, **fields) -> Turn:
    ids = load_decoder(TINY).encode(text, add_special_tokens=False).ids
    logprobs = [-0.1 * t for t in range(len(ids))]
    return replace(Turn([0, 1], ids, logprobs, 0, text, "print(1)", "1\n", ["GET /spotify/songs {}"]), **fields)


def text_of(response) -> str:
    """What a reader sees of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", response.text)).split())


def test_the_list_links_to_every_rollout_and_filters(tmp_path):
    run = make_run(tmp_path)
    write_group(run, 0)
    write_group(run, 1)
    client = client_of(run)
    page = client.get("/")
    assert page.text.count('href="/rollout/') == 4
    assert "4 of 4 rollouts" in text_of(page)
    assert "1 files indexed" not in text_of(page) and "2 files indexed" in text_of(page)
    page = client.get("/", params={"task": "abc1", "reward": "1", "sort": "reward"})
    assert re.findall(r'href="/rollout/([^"]+)"', page.text) == ["g000001-k1"]
    assert 'value="abc1"' in page.text
    assert "No rollout matches" in text_of(client.get("/", params={"text": "nowhere"}))


def test_a_run_without_rollouts_yet(tmp_path):
    assert "No rollouts yet" in text_of(client_of(make_run(tmp_path)).get("/"))


def test_a_rollout_is_read_as_a_conversation(tmp_path):
    run = make_run(tmp_path, TINY)
    write_rollouts(run.group_file(0), [make_rollout("g000000-k0", turns=[make_turn()])])
    page = client_of(run).get("/rollout/g000000-k0")
    text = text_of(page)
    for part in ("Do task 0.", "Look first.", "1 call", "GET /spotify/songs {}", "1 of 2 tests passed", "✗ other"):
        assert part in text
    assert '<span class="nb">print</span>' in page.text  # highlighted
    assert '<a id="group" href="/group/0">' in page.text


def test_every_token_carries_its_figures(tmp_path):
    run = make_run(tmp_path, TINY)
    turn = make_turn()
    num = len(turn.action_ids)
    write_rollouts(run.group_file(0), [make_rollout("g000000-k0", turns=[turn, turn])])
    trainers = [logprob + math.log(1.3) for logprob in turn.logprobs] * 2
    write_updates(run.update_file(0), {"g000000-k0": -0.3}, {"g000000-k0": TokenValues(trainers, [0.5] * 2 * num)})
    page = client_of(run).get("/rollout/g000000-k0").text
    tokens = re.findall(r'<span class="token ([^"]*)" title="([^"]*)">([^<]*)</span>', page)
    assert len(tokens) == 2 * num
    shades, figures, _ = tokens[1]
    assert shades == "advantage-3 ratio3 logprob1 entropy3"
    assert "advantage -0.3 · importance ratio 1.3 · log-probability -0.1 · entropy at choice (nats) 0.5" in figures
    assert "".join(html.unescape(text) for *_, text in tokens) == 2 * turn.action_text


@pytest.mark.parametrize("case", ["evaluation", "filtered", "not yet", "other episode", "unreadable"])
def test_values_that_are_missing_say_why(tmp_path, case):
    run = make_run(tmp_path, TINY)
    rollout = make_rollout("x", iteration=-1 if case == "evaluation" else 0, turns=[make_turn()])
    write_rollouts(run.eval_rollouts / "v000001-dev.parquet" if case == "evaluation" else run.group_file(0), [rollout])
    if case == "filtered":
        write_updates(run.update_file(0), {"x": 0.002}, {})
    elif case == "other episode":
        write_updates(run.update_file(0), {"x": 0.5}, {"x": TokenValues([0.0], [0.0])})
    elif case == "unreadable":
        run.update_file(0).parent.mkdir()
        run.update_file(0).write_bytes(b"PAR1")
    text = text_of(client_of(run).get("/rollout/x"))
    assert {
        "evaluation": "importance ratio: evaluation rollout: not trained on",
        "filtered": "importance ratio: not trained on: |advantage| 0.002 is below algorithm.min_abs_advantage 0.01",
        "not yet": "iteration 0 has not been trained yet (no updates/iteration-000000.parquet)",
        "other episode": "they are not of the same episode",
        "unreadable": "updates/iteration-000000.parquet: not a readable update file",
    }[case] in text


def test_without_a_tokenizer_the_text_is_shown_and_the_page_says_so(tmp_path):
    run = make_run(tmp_path, str(tmp_path / "no-model"))
    write_rollouts(run.group_file(0), [make_rollout("x", turns=[make_turn()])])
    text = text_of(client_of(run).get("/rollout/x"))
    assert "Tokens cannot be shown, only text. model.path" in text
    assert "Look first." in text


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31mred\x00\r\u202egnp.exe\u2066\x9b\u200b\"'`</pre>"
)


def test_hostile_text_is_inert_on_every_page(tmp_path):
    run = make_run(tmp_path, TINY)
    turn = Turn([0], [5], [0.0], 0, f"{HOSTILE}\n```python\n{HOSTILE}\n```{HOSTILE}", HOSTILE, HOSTILE, [HOSTILE])
    fields = {
        "task_id": HOSTILE,
        "family": HOSTILE,
        "labels": {HOSTILE: HOSTILE},
        "instruction": HOSTILE,
        "end_reason": HOSTILE,
    }
    rollout = make_rollout(HOSTILE, turns=[turn], passes=[HOSTILE], failures=[HOSTILE], **fields)
    write_rollouts(run.group_file(0), [rollout])
    (run.train_rollouts / "<img src=x>.parquet").write_bytes(b"<b>\x1b\xff")
    client = client_of(run)
    link = re.search(r'href="(/rollout/[^"]+)"', client.get("/").text)[1]
    for path in ("/", link, "/group/0", f"/rollout/no{quote(HOSTILE)}", "/?end=<script>alert(1)</script>"):
        page = client.get(path)
        assert "alert" in page.text, path
        assert not re.search("<script>|<img|</pre></pre>|[\x00\x1b\r\u202e\u2066\x9b\u200b]", page.text), path
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert "\\x1b[31mred\\x00\\r\\u202egnp.exe\\u2066\\x9b\\u200b" in html.unescape(client.get(link).text)


def test_what_cannot_be_seen_is_written_out():
    assert inert("a\tb\n\x07\x7f\u2028\U000e0041\ud800é😀") == "a\tb\n\\x07\\x7f\\u2028\\U000e0041\\ud800é😀"
    assert "\\x1b" in highlighted("x = '\x1b'") and "<b>" not in highlighted("'<b>'")


@pytest.mark.parametrize(
    ("action_text", "code", "parts"),
    [
        (ACTION, "print(1)", ("Look first.", "print(1)", "")),
        ("```python\n\nx\n```\nmore ```y```", "x", ("", "x", "more ```y```")),
        ("x is what I want\n```python\nx\n```", "x", ("x is what I want", "x", "")),
        ("no code", "", ("no code", "", "")),
    ],
)
def test_an_action_is_thought_code_and_what_was_not_run(action_text, code, parts):
    assert split_action(action_text, code) == parts


def test_characters_of_several_tokens_stand_at_their_last():
    decoder = load_decoder(TINY)
    ids = decoder.encode("Ü 日😀", add_special_tokens=False).ids
    assert "".join(pieces(decoder, ids)) == "Ü 日😀"
    assert pieces(decoder, ids[:-1])[-1] == ""


def test_scales_have_the_filter_and_the_clip_range_in_their_middle():
    advantage, ratio, logprob, entropy = scales(AlgorithmConfig())
    assert [advantage.level(a) for a in (-1, -0.02, 0.0, 0.009, 0.02, 1)] == [-4, -1, 0, 0, 1, 4]
    assert [ratio.level(r) for r in (0.0, 0.89, 0.95, 1.0, 1.05, 1.11, 9)] == [-4, -2, -1, 0, 1, 2, 4]
    assert [logprob.level(x) for x in (0.0, math.log(0.95), -50)] == [0, 1, 6]
    assert [entropy.level(h) for h in (0.0, 0.05, 3)] == [0, 1, 6]
    assert all(len({level for level, _ in scale.legend}) == len(scale.edges) + 1 for scale in scales(AlgorithmConfig()))


def test_a_group_is_shown_side_by_side(tmp_path):
    run = make_run(tmp_path)
    write_group(run, 0)
    write_group(run, 1)
    write_updates(run.update_file(0), {"g000001-k0": -1.0, "g000001-k1": 1.0}, {})
    page = client_of(run).get("/group/1")
    text = text_of(page)
    assert text.index("g000001-k0") < text.index("g000001-k1")
    for part in ("−1.000", "+1.000", "mean reward 0.500", "other ✗ failed"):
        assert part in text
    assert 'rel="prev" href="/group/0"' in page.text and 'rel="next"' not in page.text
    assert "unfinished" not in text


def test_an_unfinished_group_says_so_and_its_pieces_may_move_while_read(tmp_path):
    run = make_run(tmp_path)
    piece = run.unfinished_rollouts / "g000000-k0.parquet"
    write_rollouts(piece, [make_rollout("g000000-k0")])
    client = client_of(run)
    assert "1 of 2 rollouts are there" in text_of(client.get("/group/0"))
    assert "no iteration has taken its group yet" in text_of(client.get("/rollout/g000000-k0"))
    write_group(run, 0)
    piece.unlink()  # the index does not know yet
    assert client.get("/rollout/g000000-k0").status_code == 200
    assert client.get("/group/0").status_code == 200


def test_a_file_that_breaks_after_it_was_indexed_is_an_error_that_names_it(tmp_path):
    run = make_run(tmp_path)
    write_group(run, 0)
    client = client_of(run)
    run.group_file(0).write_bytes(run.group_file(0).read_bytes()[:-9])
    page = client.get("/rollout/g000000-k0")
    assert page.status_code == 410
    assert "group-000000.parquet: not a readable rollout file" in text_of(page)
    run.group_file(0).unlink()
    assert "group-000000.parquet: not a readable rollout file" in text_of(client.get("/group/0"))
    pq.write_table(pa.table({"rollout_id": ["g000000-k0"], "turns": [[]]}), run.group_file(0))
    assert client.get("/rollout/g000000-k0").status_code == 410


def test_what_is_not_there_is_named(tmp_path):
    run = make_run(tmp_path)
    index = updated(run)
    index.progress = Progress(1_200, 16_700)
    client = client_of(run, index)
    page = client.get("/rollout/g9-k9")
    assert page.status_code == 404
    assert f"no rollout g9-k9 in {run.path} (indexing 1,200 of 16,700 files)" in text_of(page)
    for group_id in (7, 10**20):
        assert f"no training group {group_id} in" in text_of(client.get(f"/group/{group_id}"))
    assert client.get("/elsewhere").status_code == 404
    page = client.get("/?reward=high")
    assert page.status_code == 400 and "reward=high: expected a number or a range" in text_of(page)


def test_an_older_run_shows_its_files_as_problems(tmp_path):
    run = make_run(tmp_path)
    for group_id in range(120):
        old = pa.table({"reward": [1.0]}).replace_schema_metadata({"loop_rl.schema_version": "1"})
        run.group_file(group_id).parent.mkdir(exist_ok=True)
        pq.write_table(old, run.group_file(group_id))
    text = text_of(client_of(run).get("/"))
    assert "120 files cannot be read" in text
    assert "rollouts/train/group-000000.parquet : rollout schema version 1, this code reads version" in text
    assert "and 20 more" in text


@pytest.mark.parametrize("damage", ["deleted", "overwritten"])
def test_an_index_that_breaks_meanwhile_says_what_to_do(tmp_path, damage):
    run = make_run(tmp_path)
    write_group(run, 0)
    index = updated(run)
    client = client_of(run, index)
    if damage == "deleted":
        index.path.unlink()
    else:
        index.path.write_bytes(b"no database" * 500)
    index.follow(threading.Event())  # gives up
    for path in ("/", "/rollout/g000000-k0", "/group/0"):
        page = client.get(path)
        assert page.status_code == 503
        assert "start `loop_rl view` again to make it anew" in text_of(page)
        assert "the index cannot be updated" in text_of(page)
    assert "2 of 2 rollouts" in text_of(client_of(run).get("/"))


def test_a_live_run_is_followed(tmp_path):
    run = make_run(tmp_path)
    index = updated(run)
    with client_of(run, index) as client:
        before = client.get("/status").json()["generation"]
        write_group(run, 0)
        for _ in range(100):
            if client.get("/status").json()["generation"] != before:
                break
            time.sleep(0.1)
        assert "2 of 2 rollouts" in text_of(client.get("/"))


def test_only_this_machine_by_its_own_name(tmp_path):
    client = client_of(make_run(tmp_path))
    assert client.get("/", headers={"Host": "rebound.example"}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200
    assert client.post("/").status_code == 405


def view(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "loop_rl", "view", *map(str, arguments), "--no-browser"]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_prints_the_address_and_ends_when_told(tmp_path):
    run = make_run(tmp_path)
    with view(run.path) as viewer:
        assert re.search(r"http://127\.0\.0\.1:\d+/", viewer.stdout.readline())
        os.kill(viewer.pid, signal.SIGINT)
        assert viewer.communicate(timeout=20)[1] == "stopped\n"
    assert viewer.returncode == 130


@pytest.mark.parametrize("case", ["no run", "other settings", "port taken", "no such port"])
def test_what_the_command_cannot_do_is_one_line(tmp_path, case):
    run = make_run(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if case == "other settings":
            run.config_file.write_text(run.config_file.read_text() + "critic: true\n")
        arguments, message = {
            "no run": ([tmp_path], "not a run directory (no config.yaml)"),
            "other settings": ([run.path], "config.yaml: unknown setting critic"),
            "port taken": ([run.path, "--port", port], f"--port {port}: cannot listen there (Address already in use)"),
            "no such port": ([run.path, "--port", 70000], "--port 70000: cannot listen there (there are ports 1 to"),
        }[case]
        with view(*arguments) as viewer:
            _, stderr = viewer.communicate(timeout=20)
    assert viewer.returncode == 1
    assert stderr.startswith("error: ") and message in stderr and stderr.count("\n") == 1


def test_start_up_imports_nothing_heavy():
    code = "import sys, loop_rl.inspection.viewer.view; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_million_rollouts_are_listed_a_page_at_a_time(tmp_path):
    index = updated(make_run(tmp_path))
    with closing(index.connect()) as connection:
        connection.execute(
            """
            WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999)
            INSERT INTO rollouts (rollout_id, source, group_id, iteration, task_id, family, label, instruction,
                min_version, max_version, reward, success, end_reason, num_turns, action_tokens, duration_s, started_at)
            SELECT printf('g%06d-k%d', i / 6, i % 6), 'training', i / 6, i / 240, 'a_1', 'a', 1, 'Do it.',
                0, 0, i % 5 / 4.0, i % 5 = 4, 'completed', 3, 100, 1.0, i FROM n
            """
        )
        connection.commit()
    client = client_of(index.run, index)
    page = client.get("/")
    assert page.text.count('href="/rollout/') == 100 and "1,000,000 of 1,000,000 rollouts" in text_of(page)
    assert "200,000 of 1,000,000 rollouts" in text_of(client.get("/?reward=1"))
    assert "g166666-k3" in client.get("/?sort=rollout_id&order=asc&page=10000").text  # the last one
