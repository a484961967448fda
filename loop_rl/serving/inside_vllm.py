"""What of ours runs inside a vLLM server, through vLLM's own hooks: a guard of its routes, an eye on its engine, new weights.

vLLM imports these classes by name (`--middleware`, `--worker-extension-cls`, see `loop_rl.serving.server`); nothing else does.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import time
from typing import Any

HANG_TIMEOUT = "LOOP_RL_HANG_TIMEOUT_S"
"""Variable that `Health` reads."""
VERSION_HEADER = "x-policy-version"
CONFLICT = 409


class Guard:
    """ASGI middleware: nobody gets anything without the run's secret.

    vLLM's own check of VLLM_API_KEY covers /v1 and little else: /invocations samples and /adapters loads without it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or hmac.compare_digest(_header(scope, "authorization"), self._expected):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _answer(send, 401, {"error": "the run's secret is missing or wrong"})
        else:
            await send({"type": "websocket.close", "code": 1008})


class Health:
    """ASGI middleware: /health says so, with 503, when requests have waited for longer than HANG_TIMEOUT without a token.

    vLLM's own answer is about the engine's process, which may be there and do nothing: a deadlock, a kernel that never ends.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._limit_s = float(os.environ[HANG_TIMEOUT])
        self._num_waiting = 0
        self._num_tokens = 0.0
        self._last_progress = 0.0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path == "/v1/completions":
            await self._generate(scope, receive, send)
        elif path == "/health" and (silent_s := self._silent_s()) > self._limit_s:
            said = f"no token for {silent_s:.0f} s while {self._num_waiting} requests wait (server.hang_timeout_s)"
            await _answer(send, 503, said)
        else:
            await self._app(scope, receive, send)

    async def _generate(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if not self._num_waiting:
            self._last_progress = time.monotonic()
        self._num_waiting += 1
        try:
            await self._app(scope, receive, send)
            self._last_progress = time.monotonic()
        finally:
            self._num_waiting -= 1

    def _silent_s(self) -> float:
        """Seconds for which requests have waited in vain; 0 where vLLM has been told to count no tokens."""
        from vllm.v1.metrics.prometheus import get_prometheus_registry  # only a server has vLLM at hand

        counts = [
            sample.value
            for metric in get_prometheus_registry().collect()
            if metric.name == "vllm:generation_tokens"
            for sample in metric.samples
            if sample.name == "vllm:generation_tokens_total"
        ]
        if not counts or not self._num_waiting:
            return 0.0
        if sum(counts) != self._num_tokens:
            self._num_tokens, self._last_progress = sum(counts), time.monotonic()
        return time.monotonic() - self._last_progress


class PolicyVersion:
    """ASGI middleware of a server whose whole weights are the policy: which version they are, and how that changes.

    GET /policy answers {"version": 3}; null while the weights change, or if that has failed.
    POST /policy {"version": 4, "path": "runs/x/policy/v000004"} answers when the server holds that version; path null is
    the model that the server was started with. Requests that are being answered are answered to their end first, by the
    version that they began with; others are refused meanwhile.

    Every request for tokens names its version in the header X-Policy-Version; it is refused with 409 when the server holds
    another one, as a server that has been restarted does.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._version: int | None = 0
        self._changing = asyncio.Lock()
        self._num_generating = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/policy":
            if scope["method"] == "POST":
                await self._change(scope["app"].state, json.loads(await _body(receive)), send)
            else:
                await _answer(send, 200, {"version": self._version})
        elif scope["path"] == "/v1/completions":
            await self._generate(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _generate(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        named = _header(scope, VERSION_HEADER).decode()
        if named != str(self._version):
            await _answer(send, CONFLICT, {"error": f"this server holds policy version {self._version}, not {named}"})
            return
        self._num_generating += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_generating -= 1

    async def _change(self, state: Any, wanted: dict[str, Any], send: Any) -> None:
        async with self._changing:
            if self._version != wanted["version"]:
                self._version = None
                while self._num_generating:
                    await asyncio.sleep(0.01)
                # What is left in the engine now has nobody waiting for it. Prefixes computed with the old weights go, too.
                await state.engine_client.pause_generation(mode="abort", clear_cache=True)
                try:
                    path = wanted["path"] or state.args.model
                    await state.engine_client.collective_rpc("load_policy", args=(path,))
                except Exception as error:
                    await _answer(send, 422, {"error": f"{path}: {error}"})
                    return
                await state.engine_client.resume_generation()
                self._version = wanted["version"]
                print(f"holds policy version {self._version}, {path}", flush=True)
        await _answer(send, 200, {"version": self._version})


class LoadPolicy:
    """Mixed into vLLM's worker processes."""

    def load_policy(self, folder: str) -> None:
        """Replace all weights by those of a transformers model folder of the same shape."""
        self.reload_weights(weights_path=folder)
        model = self.model_runner.get_model()
        if self.model_runner.model_config.hf_text_config.tie_word_embeddings:
            # The head has no weights of its own in the folder, so vLLM does not prepare it anew; on a CPU it would go on
            # with its packed copy of the old embedding, silently.
            for name, module in model.named_modules():
                if name.rpartition(".")[2] == "lm_head":
                    module.quant_method.process_weights_after_loading(module)


def _header(scope: dict[str, Any], name: str) -> bytes:
    return dict(scope["headers"]).get(name.encode(), b"")


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _answer(send: Any, status: int, content: dict[str, Any] | str) -> None:
    kind = b"text/plain" if isinstance(content, str) else b"application/json"
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    body = content if isinstance(content, str) else json.dumps(content)
    await send({"type": "http.response.body", "body": body.encode()})
