"""How commands end: one line for an error, the same clean end for Ctrl-C and SIGTERM, also in the background."""

import signal
import subprocess
import sys

import pytest

from loop_rl.machine.command import run_command

WAITING = {
    "plain": "import time; print('up', flush=True); time.sleep(60)",
    "asyncio": "run_async(sleep())",
}
COMMAND = """
import asyncio, sys
from loop_rl.machine.command import run_async, run_command
async def sleep():
    print('up', flush=True)
    await asyncio.sleep(60)
def work():
    {waiting}
sys.exit(run_command(work, "stopped; goes on from here"))
"""


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("waiting", WAITING.values(), ids=WAITING)
@pytest.mark.parametrize("background", [False, True])
def test_a_signal_ends_a_command_cleanly(sig, waiting, background):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(waiting=waiting)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As a shell that is not interactive does for `command &`.
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if background else None,
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(sig)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "stopped; goes on from here\n")


def test_an_error_is_one_line(capsys):
    def fail():
        raise ValueError("config.yaml: no such key")

    assert run_command(fail, "") == 1
    assert capsys.readouterr().err == "error: config.yaml: no such key\n"


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0, "")
