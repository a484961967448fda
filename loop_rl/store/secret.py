"""The secret by which the processes of a run authenticate each other."""

from __future__ import annotations

import hashlib
import os
import secrets

from loop_rl.store.run_dir import RunDir


def secret(run: RunDir) -> str:
    """The secret by which the run's processes authenticate each other; made by whoever asks first."""
    file = run.path / "secret"
    if not file.exists():
        mine = run.path / f".secret.{secrets.token_hex(4)}"
        with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as unfinished:
            unfinished.write(secrets.token_urlsafe(32))
        try:
            os.link(mine, file)  # unlike a rename, leaves one that has come into being meanwhile
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    return file.read_text()


def run_id(run: RunDir) -> str:
    """Four letters and digits that tell runs of one name apart."""
    return hashlib.sha256(secret(run).encode()).hexdigest()[:4]
