"""What agent code tries and must not be able to do; each attempt is real, and small enough to do no harm if it works."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest
from solutions import solution_code

from appworld_tasks.environment import AppWorldEnvironment
from appworld_tasks.pool import WorkerLost, WorkerPool
from appworld_tasks.splits import load_split

pytestmark = pytest.mark.slow(110)

TASK = "train-001-contact-phone_1"
REPO = Path(__file__).resolve().parents[2]
# AppWorld replaces what agent code usually calls by functions that do nothing; these ways it leaves open.
PREAMBLE = """
import os
ctypes = __import__("ctypes")
libc = ctypes.CDLL(None, use_errno=True)
FileIO = __import__("_io").FileIO
def failed(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)
    return "done"
def errno(result):
    return ctypes.get_errno() if result < 0 else "done"
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each worker a user of its own")

Run = Callable[[Coroutine], object]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def root(appworld_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full root of our own, below a folder that other users cannot enter. As it is in /tmp, that stays read-only."""
    closed = tmp_path_factory.mktemp("closed")
    closed.chmod(0o700)
    shutil.copytree(appworld_root / "data", closed / "root" / "data")
    return closed / "root"


@pytest.fixture(scope="module")
def pool(run: Run, root: Path, appworld_python: Path) -> Iterator[WorkerPool]:
    link = root.parent / "environment"  # as where home folders are links
    link.symlink_to(appworld_python.parent.parent)
    pool = WorkerPool(root, link / "bin/python", num_workers=2, execute_timeout_s=5.0)
    run(pool.__aenter__())
    if pool.protections["ground truth out of reach"]:
        run(pool.__aexit__(None, None, None))
        pytest.skip("this system has no namespaces for us: " + pool.protections["ground truth out of reach"])
    yield pool
    run(pool.__aexit__(None, None, None))


@pytest.fixture
def attempt(run: Run, pool: WorkerPool) -> Callable[..., str]:
    """What code prints in a world of its own; then the next episode has to work."""

    async def play(*codes: str) -> str:
        async with pool.world(TASK, "attempt") as world:
            return [(await world.execute(code)).output.strip() for code in (PREAMBLE, *codes)][-1]

    def attempt(*codes: str) -> str:
        output = run(play(*codes))
        assert run(play('print(apis.supervisor.show_profile()["first_name"])')).isalpha()
        return output

    return attempt


def test_everything_is_enforced_as_root(pool: WorkerPool) -> None:
    missing = {name: why for name, why in pool.protections.items() if why}
    if os.geteuid() == 0:
        assert not missing
    else:
        assert set(missing) <= {"user of its own", "signals"}


def test_ground_truth_is_out_of_reach(root: Path, appworld_root: Path, attempt: Callable[..., str]) -> None:
    for data in (root / "data", appworld_root / "data"):
        answer = data / "tasks" / TASK / "ground_truth" / "answer.json"
        assert answer.exists()
        paths = [str(answer), f"/proc/{os.getpid()}/root{answer}", f"/proc/self/cwd/../{root.name}/data"]
        output = attempt(f"for path in {paths}: print(failed(FileIO, path))").splitlines()
        output += [attempt(f"print(failed(FileIO, f'/proc/{{os.getppid()}}/root{answer}'))")]
        assert len(output) == 4 and set(output) <= {"FileNotFoundError 2", "PermissionError 13"}


def test_other_files_of_this_machine_are_out_of_reach(attempt: Callable[..., str], tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("secret")
    assert attempt(f"print(failed(FileIO, {str(secret)!r}))") == "FileNotFoundError 2"
    assert attempt(f"print(failed(FileIO, {str(REPO / 'README.md')!r}))") == "FileNotFoundError 2"


def test_nothing_can_be_written_but_outputs_and_temporary_files(attempt: Callable[..., str], pool: WorkerPool) -> None:
    paths = [
        "/x",
        "/tmp/x",
        "/usr/x",
        "/etc/x",
        "/dev/x",
        "/workers/x",
        sys.prefix + "/x",
        str(pool.worker_root / "data/x"),
    ]
    output = attempt(f"for path in {paths}: print(failed(FileIO, path, 'w'))")
    assert len(output.splitlines()) == len(paths) and "done" not in output
    assert attempt("print(failed(FileIO, '/dev/shm/x', 'w'), __import__('tempfile').gettempdir())") == "done /dev/shm"
    assert not (pool.worker_root / "data/x").exists() and not Path("/dev/shm/x").exists()


def test_usual_temporary_folder_is_writable_and_private(
    run: Run, appworld_root: Path, appworld_python: Path, tmp_path: Path
) -> None:
    async def write() -> str:
        async with WorkerPool(appworld_root, appworld_python, 1) as pool, pool.world(TASK, "temporary") as world:
            return (await world.execute(f"{PREAMBLE}print(failed(FileIO, '/tmp/{tmp_path.name}', 'w'))")).output

    # With the repository in /tmp, what workers need lies there, and so it is read-only.
    needed_is_inside = any(path.absolute().is_relative_to("/tmp") for path in (appworld_root, appworld_python))
    assert run(write()).strip() == (f"OSError {errno.EROFS}" if needed_is_inside else "done")
    assert not Path("/tmp", tmp_path.name).exists()


def test_one_episode_leaves_no_file_for_the_next(attempt: Callable[..., str], pool: WorkerPool) -> None:
    outputs = str(pool.worker_root / "experiments/outputs")
    leave = f"for path in ('/var/tmp/x', '/dev/shm/x', '{outputs}/x'): print(failed(FileIO, path, 'w'))"
    look = f"for path in ('/var/tmp', '/dev/shm', '{outputs}'): print([e.name for e in os.scandir(path)])"
    assert attempt(leave) == "\n".join(["done"] * 3)
    for _ in range(4):  # both workers, this one among them
        assert "x" not in attempt(look).replace("experiments", "")
    assert not (pool.worker_root / "experiments/outputs/x").exists()


def test_episodes_open_together_do_not_see_each_other(run: Run, pool: WorkerPool) -> None:
    async def together() -> tuple[str, str]:
        async with pool.world(TASK, "one") as one, pool.world(TASK, "two") as two:
            outputs = str(pool.worker_root / "experiments/outputs")
            await one.execute(PREAMBLE + "print(failed(FileIO, '/dev/shm/from-one', 'w'))")
            seen = await two.execute(
                f"{PREAMBLE}print([e.name for p in ('/dev/shm', {outputs!r}) for e in os.scandir(p)])"
            )
            listen = "s = __import__('socket').socket(1); s.bind('\\0here'); s.listen(1); print('listens')"
            connect = "print(failed(__import__('socket').socket(1).connect, '\\0here'))"
            assert (await one.execute(listen)).output.strip() == "listens"
            return seen.output, (await two.execute(connect)).output.strip()

    seen, connected = run(together())
    assert "one" not in seen and "two" in seen
    assert connected == "ConnectionRefusedError 111"


def test_a_worker_may_start_while_others_come_and_go(pool: WorkerPool, root: Path, appworld_python: Path) -> None:
    """The folders of workers that the fork server has added or removed since the fork, at any point in between."""
    code = """
import os, sys
from isolation import Isolation, WORKERS, _failure_in_a_child
isolation = Isolation(*sys.argv[1:])
def start():
    isolation.enter()
    for id in (0, 1):
        isolation.add_worker(id)
    if os.fork() == 0:
        os.mkdir(WORKERS + "/2")  # what add_worker does first; the rest happens where this process cannot see it
        isolation.confine(0)
        os.write(1, b"confined")
    else:
        os.wait()
print(isolation.works() or _failure_in_a_child(start), flush=True)
"""
    environment = os.environ | {"PYTHONPATH": str(REPO / "appworld_tasks" / "engine")}
    command = [appworld_python, "-c", code, root, pool.worker_root]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "confined", result


def test_outputs_reach_the_outside_as_plain_files_of_ours(run: Run, pool: WorkerPool) -> None:
    async def episode() -> None:
        async with pool.world(TASK, "plain") as world:
            await world.execute("apis.supervisor.complete_task(answer=7)")

    run(episode())
    outputs = pool.worker_root / "experiments/outputs/plain/tasks" / TASK
    assert (outputs / "dbs/supervisor.jsonl").read_text()
    for path in outputs.rglob("*"):
        assert not path.is_symlink() and path.stat().st_uid == os.geteuid()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        ("os.symlink('/etc/passwd', folder + '/link')", "'link' in its outputs is neither file nor folder"),
        ("os.mkfifo(folder + '/pipe')", "'pipe' in its outputs is neither file nor folder"),
        ("os.makedirs(folder + '/a' * 20)", "folders in folders"),
        ("print([f.truncate(2**28) for i in range(3) for f in [FileIO(folder + f'/{i}', 'w')]])", "too large"),
    ],
)
def test_outputs_that_could_mislead_the_scorer_are_refused(run: Run, pool: WorkerPool, make: str, problem: str) -> None:
    outputs = pool.worker_root / "experiments/outputs/mislead/tasks" / TASK

    async def episode() -> None:
        async with pool.world(TASK, "mislead") as world:
            await world.execute(f"{PREAMBLE}folder = {str(outputs)!r}\n{make}")
            await world.close()

    with pytest.raises(WorkerLost, match=problem) as lost:
        run(episode())
    assert lost.value.reason == "protocol"
    assert not outputs.exists()


def test_network_is_out_of_reach(attempt: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        connect = f"__import__('socket').create_connection, ('127.0.0.1', {listener.getsockname()[1]}), 2"
        assert attempt(f"print(failed({connect}))").startswith("OSError 101")  # the network is unreachable
        with pytest.raises(TimeoutError):
            listener.accept()


def test_temporary_folder_and_files_are_bounded(attempt: Callable[..., str]) -> None:
    fill = """
file, written = FileIO("/dev/shm/large", "w"), 0
try:
    while written < 2**30:
        written += file.write(bytes(2**24))
except OSError as error:
    print(error.errno, written // 2**20)
"""
    assert attempt(fill) == "27 256"  # EFBIG: one file
    many = "for i in range(3):\n" + "\n".join("    " + line for line in fill.replace("/large", "/{i}").splitlines())
    assert "28 " in attempt(many.replace('FileIO("', 'FileIO(f"'))  # ENOSPC: all files together
    assert len(list(Path("/dev/shm").glob("large"))) == 0


def test_processes_are_bounded(attempt: Callable[..., str]) -> None:
    spawn = """
pids, error = [], None
try:
    for _ in range(400):
        pids.append(os.posix_spawn("/bin/sleep", ["sleep", "20"], {}))
except OSError as problem:
    error = problem.errno
print(error, len(pids) < 300)
"""
    assert attempt(spawn) == "11 True"  # EAGAIN


@pytest.mark.parametrize("target", ["os.getppid()", "SAMPLER", "SIBLING"])
def test_other_processes_get_no_signal_and_show_nothing(run: Run, pool: WorkerPool, target: str) -> None:
    async def together() -> str:
        async with pool.world(TASK, "one") as one, pool.world(TASK, "two") as two:
            sibling = (await one.execute("import os\nprint(os.getpid())")).output.strip()
            pid = target.replace("SAMPLER", str(os.getpid())).replace("SIBLING", sibling)
            code = f"""{PREAMBLE}pid = {pid}
print(errno(libc.kill(pid, 0)), errno(libc.kill(pid, 15)), errno(libc.ptrace(16, pid, None, None)))
for name in ("mem", "environ", "root/etc/passwd", "cwd/x", "fd/0"):
    print(failed(FileIO, f"/proc/{{pid}}/{{name}}"))"""
            output = (await two.execute(code)).output
            assert (await one.execute("print(1)")).output.strip() == "1"
            return output

    signals, *files = run(together()).splitlines()
    assert signals == "1 1 1"  # EPERM
    assert len(files) == 5 and "done" not in files


def test_privileges_cannot_be_had(attempt: Callable[..., str]) -> None:
    output = attempt(
        "print(os.getuid() != 0, errno(libc.setuid(0)), errno(libc.mount(b'x', b'/dev/shm', b'tmpfs', 0, None)),"
        " errno(libc.umount2(b'/dev/shm', 2)), errno(libc.chroot(b'/tmp')))"
    )
    assert output in ("True 1 1 1 1", "True 22 1 1 1")  # EPERM; EINVAL where there is no user 0


@needs_root
def test_every_worker_is_a_user_of_its_own_without_groups(run: Run, pool: WorkerPool) -> None:
    async def users() -> list[str]:
        async with pool.world(TASK, "one") as one, pool.world(TASK, "two") as two:
            code = "import os\nprint(os.getresuid(), os.getresgid(), os.getgroups())"
            return [(await world.execute(code)).output for world in (one, two)]

    one, two = run(users())
    assert one != two and one.strip().endswith("[]") and "(0" not in one + two


def test_a_namespace_of_its_own_uncovers_nothing(attempt: Callable[..., str], pool: WorkerPool, root: Path) -> None:
    """Where users may make user namespaces, agent code may too, and is root in one."""
    outputs = str(pool.worker_root / "experiments/outputs")
    output = attempt(f"""
pid = libc.fork()
if pid == 0:
    made = libc.unshare(0x10020000)
    libc.umount2(b"/workers", 2), libc.umount2({outputs!r}.encode(), 2), libc.umount2(b"/proc", 2)
    found = len(list(os.scandir({outputs!r}))) > 1 or failed(FileIO, {str(root)!r} + "/data") != "FileNotFoundError 2"
    try:
        found = found or len(list(os.scandir("/workers"))) > 0
    except OSError:
        pass
    libc._exit(int(found))
print(os.waitpid(pid, 0)[1])""")
    assert output == "0"


def test_doctor_tries_each_protection(root: Path, appworld_python: Path, pool: WorkerPool) -> None:
    command = [sys.executable, "-m", "appworld_tasks.doctor", "--root", str(root), "--python", str(appworld_python)]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    for name in pool.protections:
        line = next(line for line in result.stdout.splitlines() if line.startswith(name))
        assert "enforced" in line
    assert "AppWorld" in result.stdout and str(root) in result.stdout


def test_doctor_says_in_one_line_what_is_missing(tmp_path: Path, appworld_python: Path) -> None:
    command = [sys.executable, "-m", "appworld_tasks.doctor", "--root", str(tmp_path), "--python", str(appworld_python)]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no AppWorld data here") and result.stderr.count("\n") == 1


def test_what_the_agent_may_do_scores_as_before(run: Run, root: Path, appworld_python: Path) -> None:
    task = load_split(root, "train")[0]

    async def play() -> float:
        async with (
            AppWorldEnvironment(root, appworld_python, 1) as environment,
            environment.episode(task, "solved", keep_outputs=False) as episode,
        ):
            await episode.execute(solution_code(root, task.task_id))
            return (await episode.score()).reward

    assert run(play()) == 1.0
