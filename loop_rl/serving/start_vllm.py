"""Starts a stock vLLM server; arguments are those of `vllm serve`.

    python -m loop_rl.serving.start_vllm --model models/tiny --port 8000

A module of ours in front of vLLM's own, because a process that vLLM starts imports the main module again before it does anything
else: of vLLM's that is all of its API server.
"""

import gc

# Importing vLLM makes millions of objects that stay; looking for garbage among them takes a fifth of the time.
gc.set_threshold(100_000, 50, 100)

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
