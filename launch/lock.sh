#!/usr/bin/env bash
# Write constraints/ anew: cpu and appworld from what is installed (and was tested), gpu by resolving setup.cfg.
set -euo pipefail
cd "$(dirname "$0")/.."

freeze() {  # $1 = python, $2 = file, $3 = what it is for
    { echo "# $3. Made by: make lock"; "$1" -m pip freeze --exclude-editable | sed 's/+cpu$//'; } > "$2.new"
    mv "$2.new" "$2"
}
freeze .venv-appworld/bin/python constraints/appworld.txt "AppWorld's environment"
if [ "$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("torch") and __import__("torch").cuda.is_available())')" = False ]; then
    # vLLM asks for these three; the setup takes them away again, because the registry's builds are for CUDA.
    removed=$(grep -E '^torch(audio|codec|vision)==' constraints/cpu.txt)
    freeze .venv/bin/python constraints/cpu.txt "The trainer's environment without a GPU"
    echo "$removed" >> constraints/cpu.txt
fi
python3.11 -m venv build/lock && build/lock/bin/python -m pip install -q uv==0.13.8
{ echo "# The trainer's environment with NVIDIA GPUs. Made by: make lock"
  build/lock/bin/uv pip compile -q --no-header --no-annotate setup.cfg --extra gpu --extra games --extra dev \
      --python-version 3.11 --python-platform x86_64-manylinux_2_28; } > constraints/gpu.txt.new
mv constraints/gpu.txt.new constraints/gpu.txt
