# Two commands do everything on a fresh machine: `make train` and `make test`. `make help` lists the rest.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3.11
CONFIG ?= configs/tiny.yaml
NODES ?= 1
# The remote shell of HOSTFILE=: ssh by default, or what behaves like it.
export REMOTE_SHELL
# TASKS=builtin (generated here) or official (downloaded by `make tasks-official` to APPWORLD_ROOT)
TASKS ?= builtin
APPWORLD_ROOT ?= .appworld/official
TASKS_ROOT := $(if $(filter official,$(TASKS)),$(APPWORLD_ROOT),.appworld/builtin)
TASKS_SETTING := $(if $(filter official,$(TASKS)),tasks.root=$(APPWORLD_ROOT))
BIN := .venv/bin

ifeq ($(filter builtin official,$(TASKS)),)
$(error TASKS=$(TASKS): choose builtin or official)
endif

.PHONY: help setup tasks tasks-official tasks-check train compare eval report view export replay play doctor plan test test-cluster lint docs bench tiny-model lock

help:  ## list the targets
	@awk -F'##' '/^[a-z-]+:.*##/ {split($$1, t, ":"); printf "  make %-12s %s\n", t[1], $$2} \
	             /^#:/ {print "       " substr($$0, 3)}' $(MAKEFILE_LIST)

setup:  ## make both virtual environments (train, eval and test do this themselves)
#: make setup DEVICE=cpu TORCH_INDEX=https://download.pytorch.org/whl/cpu
	@$(PYTHON) launch/setup_environments.py $(if $(DEVICE),--device $(DEVICE)) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

tasks: setup  ## generate the built-in task pack; with TASKS=official, see that the official one is there
#: make tasks
ifeq ($(TASKS),official)
	@$(BIN)/python -m appworld_tasks.official --root $(TASKS_ROOT) --check
else
	@.venv-appworld/bin/python -m appworld_tasks.builtin generate --root $(TASKS_ROOT) --replace
endif

tasks-official: setup  ## download AppWorld's official tasks, for TASKS=official
#: make tasks-official APPWORLD_ROOT=.appworld/official
	@$(BIN)/python -m appworld_tasks.official --root $(APPWORLD_ROOT)

tasks-check: setup  ## try every scenario of the built-in pack: solutions, wrong solutions, AppWorld's own verification
#: make tasks-check
#: make tasks-check ARGS="--scenario note_pay --show"
	@.venv-appworld/bin/python -m appworld_tasks.builtin check --root build/tasks-check $(ARGS)

# Only AppWorld has tasks to be generated.
ENVIRONMENT := $(shell sed -n 's/^ *environment: *\([a-z]*\).*/\1/p' $(CONFIG) 2>/dev/null)
train: $(if $(filter-out appworld,$(ENVIRONMENT)),setup,tasks)  ## train; goes on where a run of that name stopped
#: make train CONFIG=configs/tiny.yaml ARGS="name=my-run seed=1 trainer.num_iterations=30"
#: make train TASKS=official CONFIG=configs/qwen2.5-7b.yaml RESTARTS=3
#: make train TASKS=official CONFIG=configs/qwen2.5-32b.yaml NODES=2 DRY_RUN=1   (Slurm; or HOSTFILE=hosts; see docs/multi-node.md)
#: make train LOCAL_NODES=2
#: make train CONFIG=configs/babyai.yaml   (four minutes on two cores)
	@$(BIN)/python -m loop_rl.launch --config $(CONFIG) $(if $(LOCAL_NODES),--local-nodes $(LOCAL_NODES),--nodes $(NODES)) \
	  $(if $(HOSTFILE),--hostfile $(HOSTFILE)) $(if $(RESTARTS),--restarts $(RESTARTS)) $(if $(DRY_RUN),--dry-run) $(TASKS_SETTING) $(ARGS)

compare: $(if $(filter babyai% babaisai% crafter%,$(or $(notdir $(BENCH)),babyai)),setup,tasks)  ## train methods with several seeds where that is missing, and compare them
#: make compare METHODS="loop grpo rloo" SEEDS=5 BENCH=babyai
#: make compare METHODS="loop ei" SEEDS=3 BENCH=tiny ARGS="--dry-run"
	@$(BIN)/python -m loop_rl compare --bench $(or $(BENCH),babyai) --methods $(or $(METHODS),$(error METHODS= is missing, for example METHODS="loop grpo")) \
	  --seeds $(or $(SEEDS),5) $(TASKS_SETTING) $(ARGS)

plan: setup  ## memory per GPU, time of an iteration and the best split of the nodes, before anything runs
#: make plan CONFIG=configs/qwen2.5-32b.yaml NODES=2
#: make plan CONFIG=configs/qwen2.5-7b.yaml RUN=runs/qwen2.5-7b ARGS="--gpu a100 agent.max_context_tokens=16384"
	@$(BIN)/python -m loop_rl.plan --config $(CONFIG) --nodes $(NODES) $(if $(RUN),--run $(RUN)) $(ARGS)

# A model has no config of its own: CONFIG= where it is given, and not the default of training.
EVAL_CONFIG := $(if $(filter file,$(origin CONFIG)),configs/evaluate.yaml,$(CONFIG))
eval: $(if $(RUN),setup,tasks)  ## TGC and SGC of a policy version of a run, of any model, or of an OpenAI-compatible endpoint
#: make eval RUN=runs/tiny SPLIT=test_challenge POLICY=12
#: make eval MODEL=Qwen/Qwen2.5-7B-Instruct TASKS=official SPLIT=dev ARGS="evaluation.temperature=0"
#: make eval ENDPOINT=http://127.0.0.1:8000/v1 MODEL=its-name
	@$(BIN)/python -m loop_rl.evaluate $(if $(SPLIT),--split $(SPLIT)) $(if $(RUN), \
	  --run-dir $(RUN) $(if $(POLICY),--version $(POLICY)) \
	  $(if $(MODEL)$(ENDPOINT),$(error RUN= has its model; leave MODEL= and ENDPOINT= out)) \
	  $(if $(TASKS_SETTING),$(error RUN= is evaluated on its own tasks; leave TASKS= out)), \
	  --config $(EVAL_CONFIG) --model $(or $(MODEL),$(error RUN= or MODEL= is missing, for example RUN=runs/tiny)) \
	  $(if $(POLICY),$(error POLICY= goes with RUN=)) $(if $(ENDPOINT),--endpoint $(ENDPOINT)) $(TASKS_SETTING) $(ARGS))

view: setup  ## read the rollouts of a run in a browser
#: make view RUN=runs/tiny PORT=8000
	@$(BIN)/python -m loop_rl view $(or $(RUN),$(error RUN= is missing, for example RUN=runs/tiny)) $(if $(PORT),--port $(PORT))

report: setup  ## one HTML page about a run, or several side by side
#: make report RUN=runs/tiny
#: make report RUN="runs/tiny runs/other" OUT=compare.html
	@$(BIN)/python -m loop_rl report $(or $(RUN),$(error RUN= is missing, for example RUN=runs/tiny)) $(if $(OUT),--out $(OUT))

export: setup  ## adapter, merged model, or data for SFT or preferences, taken out of a run
#: make export RUN=runs/tiny KIND=merged TO=out/tiny ARGS="--version 12"
#: make export RUN=runs/tiny KIND=sft TO=out/sft ARGS="--success --iterations 3..9"
	@$(BIN)/python -m loop_rl export $(or $(RUN),$(error RUN= is missing, for example RUN=runs/tiny)) \
	  $(or $(KIND),$(error KIND= is missing: adapter, merged, sft or preferences)) \
	  --to $(or $(TO),$(error TO= is missing, a new folder, for example TO=out/tiny)) $(ARGS)

replay: tasks  ## run the code of a rollout again and show where outputs differ
#: make replay RUN=runs/tiny ROLLOUT=g000003-k1
	@$(BIN)/python -m loop_rl replay $(or $(RUN),$(error RUN= is missing, for example RUN=runs/tiny)) \
	  --rollout $(or $(ROLLOUT),$(error ROLLOUT= is missing, for example ROLLOUT=g000003-k1))

play: tasks  ## be the agent; without TASK= list some tasks
#: make play TASK=train-001-contact-phone_1
	@$(BIN)/python -m loop_rl play --config $(CONFIG) $(if $(TASK),--task $(TASK))

doctor: tasks  ## what agent code is kept from on this machine
#: make doctor
	@$(BIN)/python -m appworld_tasks.doctor --root $(TASKS_ROOT) --python .venv-appworld/bin/python

test: setup  ## run the tests, fast ones first, in two processes; with ARGS in one
#: make test ARGS="-k loss"
	@$(BIN)/python -m pytest $(or $(ARGS),--numprocesses=2)

test-cluster: setup  ## run the tests on several hosts and in a Slurm of two nodes, all made here: about 20 minutes, as root
#: make test-cluster
	@$(BIN)/python -m pytest -m cluster $(ARGS)

lint: setup  ## ruff
#: make lint
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: setup  ## write docs/settings.md anew from the config's docstrings, docs/plans.md, and the floor plan of docs/design.md
#: make docs
	@$(BIN)/python -m loop_rl.config.reference > docs/settings.md
	@HF_HUB_CACHE=/nowhere $(BIN)/python -m loop_rl.planning.document > docs/plans.md
	@$(BIN)/python launch/floor_plan.py --write

bench: tasks  ## episodes a second of the pool and what scoring costs; how long the viewer takes over a million rollouts
#: make bench
	@$(BIN)/python benchmarks/pool.py --root $(TASKS_ROOT)
	@$(BIN)/python benchmarks/view_load.py 1000 10000 100000 --rows 1000000

tiny-model: setup  ## make models/tiny, or another tiny model, again from demonstrations
#: make tiny-model
#: make tiny-model MODEL=tiny-babyai
	@launch/tiny_model.sh $(or $(MODEL),tiny)

lock: setup  ## write constraints/ anew from what is installed
#: make lock
	@launch/lock.sh
