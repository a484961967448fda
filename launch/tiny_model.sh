#!/usr/bin/env bash
# The recipes of the tiny models: demonstrations of mixed quality, really played, then supervised learning.
#     launch/tiny_model.sh [tiny | tiny-babyai | tiny-babaisai | tiny-crafter]
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-tiny}
build=build/$model
rm -rf "$build" && mkdir -p "$build" models
case $model in
tiny)
    .venv-appworld/bin/python -m appworld_tasks.builtin demonstrations --root "$build/warmup" --seed 0 --people 100 \
        --count 2520 --splits train dev test_normal --style brief --wrong-fraction 0.7 --workers 2 --out "$build/demonstrations.jsonl"
    .venv/bin/python -m loop_rl.training.tiny_model --demonstrations "$build/demonstrations.jsonl" --out "$build/model"
    ;;
tiny-babyai)
    .venv/bin/python -m loop_rl.environments.babyai demonstrations --levels goto pickup open --episodes 3600 \
        --careless-fraction 0.6 --out "$build/demonstrations.jsonl"
    .venv/bin/python -m loop_rl.training.tiny_model --demonstrations "$build/demonstrations.jsonl" --out "$build/model" \
        --pieces words --hidden-size 64 --num-layers 3 --vocab-size 400 --max-tokens 1024 --epochs 3 --float32
    ;;
tiny-babaisai)
    .venv/bin/python -m loop_rl.environments.babaisai.demonstrator --rooms two_room-goto_win two_room-break_stop-goto_win \
        --episodes 600 --max-steps 30 --careless-fraction 0.6 --turns 2 --out "$build/demonstrations.jsonl"
    .venv/bin/python -m loop_rl.training.tiny_model --demonstrations "$build/demonstrations.jsonl" --out "$build/model" \
        --pieces words --hidden-size 64 --num-layers 3 --vocab-size 400 --max-tokens 1024 --epochs 2 --float32 \
        --max-observation-tokens 160
    ;;
tiny-crafter)
    .venv/bin/python -m loop_rl.environments.crafter.demonstrator demonstrations --episodes 120 --area 32 --max-steps 200 \
        --careless-fraction 0.7 --turns 2 --out "$build/demonstrations.jsonl"
    .venv/bin/python -m loop_rl.training.tiny_model --demonstrations "$build/demonstrations.jsonl" --out "$build/model" \
        --pieces words --hidden-size 64 --num-layers 3 --vocab-size 400 --max-tokens 1024 --epochs 2 --float32 \
        --max-observation-tokens 160
    ;;
*)
    echo "error: no recipe for $model; there are tiny, tiny-babyai, tiny-babaisai, tiny-crafter" >&2
    exit 1
    ;;
esac
rm -rf "models/$model" && mv "$build/model" "models/$model"
