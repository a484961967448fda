#!/usr/bin/env bash
# The recipe of models/tiny: demonstrations of mixed quality, really run in AppWorld, then supervised learning.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf build/tiny && mkdir -p build/tiny
.venv-appworld/bin/python -m appworld_tasks.builtin demonstrations --root build/tiny/warmup --seed 0 --people 100 \
    --count 2520 --splits train dev test_normal --style brief --wrong-fraction 0.7 --workers 2 --out build/tiny/demonstrations.jsonl
.venv/bin/python -m loop_rl.training.tiny_model --demonstrations build/tiny/demonstrations.jsonl --out build/tiny/model
rm -rf models/tiny && mkdir -p models && mv build/tiny/model models/tiny
