"""Two hosts serve whole models, a third trains all weights: the cable of the second is pulled, and its server used again.

The hosts are network namespaces (hosts.py).
"""

from __future__ import annotations

import re

import pytest
from head import Head, gone_within
from hosts import MISSING, network
from test_end_to_end import PATIENCE_S

from loop_rl.store.metrics import read_metrics

pytestmark = [pytest.mark.slow(400), pytest.mark.cluster, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
NUM_ITERATIONS = 5
NOTICED_S = 60


def test_a_server_behind_a_cut_link_is_left_out_and_then_used_again(tmp_path, appworld_root):
    settings = [
        "nodes.inference=2", "nodes.training=1", "model.lora=null", f"trainer.num_iterations={NUM_ITERATIONS}",
        "sampler.tasks_per_iteration=8", "trainer.learning_rate=1e-4", "trainer.minibatch_rollouts=16",
    ]  # fmt: skip
    with network(tmp_path, num_hosts=3) as net:
        head = Head(net, tmp_path, appworld_root, settings)
        head.start()
        try:
            log = head.run.logs / "sampler.log"
            head.wait_for_training(1)
            net.cut(1)
            far = rf"vLLM server http://{re.escape(net.addresses[1])}:\d+"
            head.wait_until(lambda: re.search(rf"{far} .*taken out", log.read_text()), NOTICED_S)
            before = head.run.latest_version()
            head.wait_until(lambda: head.run.latest_version() > before)  # the first host's server does without it
            net.heal(1)
            head.wait_until(lambda: re.search(rf"{far} answers again", log.read_text()), NOTICED_S)
            assert head.process.wait(PATIENCE_S) == 0, head.output
        finally:
            head.process.kill()
            head.process.wait()
            assert gone_within(NOTICED_S, head.run)
    assert len(read_metrics(head.run)) == NUM_ITERATIONS and head.num_restarts == 0
    # It has taken every version since, as the server that was never away has.
    loads = [(head.run.logs / path).read_text() for path in ("vllm-0.log", "node-1/vllm-0.log")]
    assert all(f"holds policy version {NUM_ITERATIONS}," in text for text in loads), loads
