"""Configuration of a run: one YAML file, dotted overrides, everything checked before any work starts.

Loads without torch. Every field says what it means, in which unit, and where its default comes from; "paper" is arXiv
2502.01600, "released" the authors' released configuration where the paper is silent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loop_rl.config.base import LocalPath, Section

PART_NAME = r"^(\w+|[\w.]+:\w+)$"
"""The name of a part: of one of ours, or `module:Class`."""


class LoraConfig(Section):
    """LoRA adapter (peft) on all linear layers."""

    rank: int = Field(16, ge=1, le=512)
    """Released: 16."""
    alpha: int = Field(32, ge=1)
    """Released: 32."""


class ModelConfig(Section):
    """The one LLM."""

    path: LocalPath
    """A local folder or a hub name; needs a tokenizer with a chat template."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type of the frozen weights, in the trainer and in vLLM alike."""
    lora: LoraConfig | None = LoraConfig()
    """null trains all weights instead of an adapter: many times the memory, and a whole model published each iteration."""


class TasksConfig(Section):
    """Which tasks, and the environment they are done in, which brings settings of its own."""

    environment: str = Field("appworld", pattern=PART_NAME)
    """The world to act in: the name of a file or folder of `loop_rl/environments/`, or `module:Class` (docs/extending.md)."""
    train_split: str = "train"
    """Split to train on; those that are for testing only are refused."""
    task_ids: list[str] = Field([])
    """Train on these tasks of the split only; empty is all of them."""
    num_workers: int = Field(16, ge=1)
    """Episodes that run at once; of AppWorld each is a process (about 100 MB)."""


class AgentConfig(Section):
    """One episode."""

    max_turns: int = Field(40, ge=1)
    """Turns in a training episode. Released: 40."""
    max_eval_turns: int = Field(50, ge=1)
    """Turns in an evaluation episode. Released: 50."""
    max_new_tokens: int = Field(1500, ge=1)
    """Tokens the policy may write in one turn. Released: 1,500."""
    max_context_tokens: int = Field(32_768, ge=64)
    """Tokens of the whole episode, prompt included; also vLLM's --max-model-len. Released: 32k."""
    max_observation_tokens: int = Field(3_000, ge=16)
    """What the environment answers is cut to this many tokens. Released: 3,000."""
    observation_cut: Literal["middle", "tail"] = "middle"
    """What is left out of a longer one: its middle, in whose place a line says how much, or what comes after the last line that
    fits whole. Released: tail."""
    memory: Literal["whole", "window"] = "whole"
    """What the policy reads before an action: everything since the episode began, in one growing prompt; or the last observations
    and the actions between them, in a new prompt, so that each turn is a sample of its own (Verlog)."""
    window: int = Field(1, ge=0)
    """With `memory: window`: observations before the newest one. Verlog: 1 or 2."""
    window_thoughts: int | None = Field(None, ge=0)
    """With `memory: window`: of how many turns back an action is remembered as it was written; of those before only what was
    carried out. null: of all that the window holds. Verlog: 1."""
    format_penalty: float = Field(0.0, ge=0)
    """A turn whose text holds no action that the environment knows is worth minus this, in place of what it earned. Verlog: 0.1."""
    temperature: float = Field(1.0, ge=0.01, le=2)
    """Sampling temperature in training; behaviour log-probabilities are of this distribution. Below 0.01 vLLM takes 0.01 without
    a word, above 2 it refuses. Released: 1.0."""
    time_limit_s: float = Field(1_800.0, gt=0)
    """Wall time of one episode."""


class SamplerConfig(Section):
    """What is rolled out for one iteration."""

    source: Literal["groups", "turns", "demonstrations", "rejection", "search"] = "groups"
    """Where rollouts come from: `groups` of the newest policy; its `turns`, a fixed number of them from whatever episodes are under way,
    which go on from iteration to iteration (Verlog); or a data set that is gathered first and then gone through in shuffled epochs: `demonstrations`, solutions that the environment knows; `rejection`, rollouts of the untouched policy; `search`, pairs of
    its actions from trees of such rollouts."""
    turns_per_iteration: int = Field(256, ge=1)
    """With `turns`: how many. An episode that is not over gives a piece of itself, and what a critic expects next stands for its rest.
    Verlog: 256; for Crafter 2,048."""
    temperatures: list[float] = Field([])
    """With `rejection`: every task is tried at each of them; empty: at agent.temperature. Paper: 0.05, 0.10, ... 1.00."""
    attempts: int = Field(1, ge=1)
    """With `rejection`: how often at each, at most; no more once one has succeeded. Paper: until one has, for 8 hours."""
    searches: int = Field(30, ge=2)
    """With `search`: episodes of each task. Paper: at most 30."""
    exploration: float = Field(1.0, ge=0)
    """With `search`: c of the upper confidence bound; 0 follows what was best so far. Paper: not said."""
    tasks_per_iteration: int = Field(40, ge=1)
    """Groups per iteration. Released: 40."""
    rollouts_per_task: int = Field(6, ge=2)
    """K of the leave-one-out baseline. Paper: 6."""
    max_staleness: int = Field(1, ge=0)
    """Policy versions a training token may be old: 0 is strictly on-policy, 1 overlaps sampling and training, more let
    groups be trained on as they finish."""
    over_stale: Literal["refuse", "drop"] = "refuse"
    """`refuse` trains on no token older than that and drops none: the trainer waits for a group in its last iteration.
    `drop` never waits; groups that have become too old are left out of training, kept on disk and counted."""
    cut_off_at: float = Field(1.0, gt=0, le=1)
    """Once the trainer waits and this share of an iteration's rollouts is finished, the others are cut off, as in the
    released code: they are scored, but not trained on. This favours short episodes; the metrics under `cut/` show by how
    much. 1 cuts nothing off: what is unfinished goes on and is trained on later."""
    cut_off_min: int = Field(2, ge=2)
    """Rollouts that each task of the iteration must have finished before any is cut off. Released: 4 of 6."""
    drop_uniform: bool = False
    """Dynamic sampling: a group whose rollouts all earned the same is left out, kept on disk, and another is begun in its place,
    so that every iteration has its full number of groups to learn from (DAPO). Costs rollouts, not optimiser steps."""
    curriculum: str = Field("loop_rl.sampling.curriculum:shuffled_epochs", pattern=r"^[\w.]+:\w+$")
    """`module:function` that chooses the task of the next group, see docs/extending.md."""


class AlgorithmConfig(Section):
    """How the policy learns. Each part is the name of a file in its folder under `loop_rl/algorithms/`, or `module:Class` of
    any module that can be imported (docs/extending.md), and brings settings of its own, which stand in this section too."""

    advantage: str = Field("leave_one_out", pattern=PART_NAME)
    """What gives every rollout of a group its advantage. Paper: leave_one_out."""
    filter: str = Field("informative", pattern=PART_NAME)
    """What decides which rollouts are trained on."""
    objective: str = Field("clipped", pattern=PART_NAME)
    """What is maximised."""
    penalties: list[Annotated[str, Field(pattern=PART_NAME)]] = Field([])
    """What is taken off the objective or the reward: any number of kl, entropy."""
    average: Literal["rollout", "turn", "token", "sum"] = "rollout"
    """What counts alike in a minibatch: every rollout, and in it every token; every rollout, and in it every turn; every
    token; or (`sum`) every token, its sum divided by `average_tokens` for each rollout. Paper: rollout."""
    average_tokens: int | None = Field(None, ge=1)
    """What `average: sum` divides a rollout's sum by: 1, or the most tokens that a rollout can have (Dr. GRPO)."""
    minibatch_mean: Literal["own", "full"] = "own"
    """What the last, short minibatch of an epoch divides by: the rollouts it has, or trainer.minibatch_rollouts, so that they
    count less. Released: full."""
    epochs: int = Field(2, ge=1)
    """Passes over the rollouts of an iteration. Released: 2."""
    max_iteration_kl: float = Field(0.0, ge=0)
    """An iteration ends before the step at which |mean over the minibatch's rollouts of the sum of log(pi / pi_start)| exceeds
    this; 0: it never does. Released: 20."""

    @model_validator(mode="after")
    def _average_has_its_number(self) -> Self:
        if (self.average == "sum") != (self.average_tokens is not None):
            raise ValueError(
                f"algorithm.average: {self.average} with algorithm.average_tokens: {self.average_tokens}: `sum` needs a number, and the "
                "others none"
            )
        return self


class TrainerConfig(Section):
    """Optimisation."""

    num_iterations: int = Field(50, ge=1)
    """Iterations of sample, advantage, filter, update."""
    learning_rate: float = Field(5e-5, gt=0)
    """AdamW's, at its highest. Paper: 5e-5."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What becomes of it towards the last iteration. Paper: constant."""
    warmup_iterations: int = Field(0, ge=0)
    """Iterations over which it rises first."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled decay on the trained weights."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Global gradient norm is clipped to this. Paper: 1."""
    minibatch_rollouts: int | None = Field(32, ge=1)
    """Rollouts per optimiser step, over all ranks; null: all of the iteration, so that an epoch is one step (strictly on-policy).
    Released: 32. Fewer surviving rollouts make one shorter minibatch."""
    max_tokens_per_microbatch: int = Field(32_768, ge=64)
    """Padded tokens of one forward and backward on one rank; a longer single rollout goes alone, and with sequence
    parallelism every rollout does."""
    logprob_chunk_tokens: int = Field(1024, ge=1)
    """Tokens whose logits exist at one time: no [tokens, vocabulary] tensor is ever whole in memory."""
    activation_checkpointing: bool = True
    """Recompute layer activations in the backward pass instead of keeping them."""
    zero_stage: Literal[1, 2, 3] = 3
    """DeepSpeed ZeRO stage."""
    offload_optimizer: bool = False
    """Keep the trained weights in float32 and AdamW's state in the CPU's memory and do the optimiser step there."""
    share_gpus: bool = False
    """The ranks run on the GPUs that vLLM uses, instead of on those behind them; leave them room with vLLM's
    `--gpu-memory-utilization` in `server.args`. Refused with several nodes."""
    sequence_parallel_size: int = Field(1, ge=1)
    """Ranks that share one rollout, a piece of its tokens each (DeepSpeed Ulysses): for rollouts too long for one GPU.
    Divides `num_processes` and the model's attention heads. See docs/scaling.md."""
    num_processes: int = Field(1, ge=1)
    """Trainer ranks on each training node (one per GPU)."""
    collective_timeout_s: float = Field(600.0, gt=0)
    """Seconds after which a rank that waits for the others gives up; bounds the hang when a node or link dies."""
    checkpoint_every: int = Field(1, ge=1)
    """Iterations between resumable checkpoints; the last iteration always gets one."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept. Adapters under policy/ are all kept; whole models as many as checkpoints, two at least, and
    those that have been evaluated."""


class NodesConfig(Section):
    """Which part of several nodes does what; 0 and 0: one node does everything."""

    inference: int = Field(0, ge=0)
    """Nodes that serve the policy; the first of them samples, too. They come first."""
    training: int = Field(0, ge=0)
    """Nodes that train, behind them."""


class ServerConfig(Section):
    """Stock vLLM servers of each node that serves."""

    replicas: int = Field(1, ge=1)
    """Independent vLLM servers of a node; requests go to the least loaded."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs of one replica."""
    port: int = Field(0, ge=0, le=65_535)
    """First port; replica i listens on port + i. 0 picks free ports."""
    args: list[str] = Field([])
    """More arguments for `vllm serve`, given through unchanged."""
    start_timeout_s: float = Field(900.0, gt=0)
    """Seconds a server may take until it answers."""
    hang_timeout_s: float = Field(50.0, gt=0)
    """Seconds without a token, while requests wait for one, after which a server is started again, at most 10 s later. Raise it
    where a CPU takes longer over one prompt."""


class EvaluationConfig(Section):
    """Before/after figures."""

    split: str = "test_normal"
    """Held-out split evaluated before the first and after the last iteration; one of the environment's."""
    more_splits: list[str] = Field([])
    """More held-out splits, evaluated at the end only. Paper: test_challenge."""
    repeats: int = Field(1, ge=1)
    """How often each of them is evaluated at the end, with seeds of its own each time; mean and deviation are shown. Paper: 5."""
    every: int = Field(0, ge=0)
    """Iterations between evaluations on `select_split` beside the training (where all weights are trained: after it). The best of
    these versions, and not the last one, is evaluated at the end. 0: none. Released: 5."""
    select_split: str = "dev"
    """The split that chooses it; one of the environment's, none of those above."""
    select_repeats: int = Field(1, ge=1)
    """How often a version is evaluated on it; the mean counts. Released: 2."""
    temperature: float = Field(1.0, ge=0, le=2)
    """Sampling temperature of evaluation episodes; 0 is greedy, else from 0.01 on, as in training."""
    top_p: float = Field(1.0, gt=0, le=1)
    """In evaluation episodes, tokens are sampled from the likeliest ones that have this share of the probability together."""
    top_k: int = Field(0, ge=0)
    """In evaluation episodes, tokens are sampled from so many of the likeliest ones; 0: from all."""
    endpoint: str = Field("", pattern=r"^(https?://.+)?$")
    """Base URL, with `/v1`, of an OpenAI-compatible endpoint to evaluate instead of a model of ours; `model.path` is then
    the name that it knows. Refused in training: an endpoint gives no token ids."""

    @property
    def final_splits(self) -> list[str]:
        """Those that the run's result is evaluated on."""
        return [self.split, *self.more_splits]

    @property
    def selecting_splits(self) -> list[str]:
        """Those that choose it: one, or none."""
        return [self.select_split] if self.every else []


class TrackingConfig(Section):
    """Where the figures go beside metrics.jsonl and TensorBoard."""

    trackers: list[Literal["wandb", "trackio"]] = Field([])
    """Each needs its package: `.venv/bin/pip install wandb`, or `trackio`."""
    project: str = "loop_rl"
    """Project under which the trackers file the run; without effect where `trackers` is empty, so refused there."""


class Config(Section):
    """A run, whole."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run directory under `runs_dir`."""
    runs_dir: LocalPath = "runs"
    """Folder of all run directories."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds task order, sampling, initialisation of the adapter and minibatch shuffling."""
    model: ModelConfig
    tasks: TasksConfig = TasksConfig()
    agent: AgentConfig = AgentConfig()
    sampler: SamplerConfig = SamplerConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    trainer: TrainerConfig = TrainerConfig()
    nodes: NodesConfig = NodesConfig()
    server: ServerConfig = ServerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.name

    @property
    def candidate_versions(self) -> list[int]:
        """Policy versions of which the best is the run's result: each `evaluation.every`-th, and the last; empty where that is 0."""
        last, every = self.trainer.num_iterations, self.evaluation.every
        return sorted({last, *range(every, last + 1, every)}) if every else []

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        agent = self.agent
        if agent.max_new_tokens + agent.max_observation_tokens >= agent.max_context_tokens:
            raise ValueError(
                f"agent.max_new_tokens ({agent.max_new_tokens}) + agent.max_observation_tokens "
                f"({agent.max_observation_tokens}) leave no room in agent.max_context_tokens ({agent.max_context_tokens})"
            )
        if agent.memory == "whole":
            for name in ("window", "window_thoughts"):
                if getattr(agent, name) != getattr(AgentConfig(), name):
                    raise ValueError(f"agent.{name} ({getattr(agent, name)}) has no effect with agent.memory: whole")
        elif agent.window_thoughts is not None and agent.window_thoughts > agent.window:
            raise ValueError(f"agent.window_thoughts ({agent.window_thoughts}) exceeds agent.window ({agent.window})")
        elif self.evaluation.endpoint:
            raise ValueError(
                "agent.memory: window is made of tokens, and evaluation.endpoint takes messages; leave one of them out"
            )
        if 0 < self.evaluation.temperature < 0.01:
            raise ValueError(
                f"evaluation.temperature ({self.evaluation.temperature}): below 0.01 vLLM samples at 0.01 without a word; set 0 for "
                "greedy decoding, or at least 0.01"
            )
        if self.evaluation.temperature == 0 and (self.evaluation.top_p < 1 or self.evaluation.top_k):
            raise ValueError(
                f"evaluation.top_p ({self.evaluation.top_p}) and evaluation.top_k ({self.evaluation.top_k}) have no effect with "
                "evaluation.temperature: 0, which takes the likeliest token"
            )
        if self.trainer.logprob_chunk_tokens > self.trainer.max_tokens_per_microbatch:
            raise ValueError(
                f"trainer.logprob_chunk_tokens ({self.trainer.logprob_chunk_tokens}) exceeds "
                f"trainer.max_tokens_per_microbatch ({self.trainer.max_tokens_per_microbatch}), so it would have no effect"
            )
        if self.trainer.num_processes % self.trainer.sequence_parallel_size:
            raise ValueError(
                f"trainer.sequence_parallel_size ({self.trainer.sequence_parallel_size}) does not divide "
                f"trainer.num_processes ({self.trainer.num_processes})"
            )
        if self.algorithm.minibatch_mean == "full" and self.trainer.minibatch_rollouts is None:
            raise ValueError(
                "algorithm.minibatch_mean: full divides by trainer.minibatch_rollouts, and that is null: every minibatch is whole"
            )
        if self.trainer.warmup_iterations >= self.trainer.num_iterations:
            raise ValueError(
                f"trainer.warmup_iterations ({self.trainer.warmup_iterations}) leaves nothing of trainer.num_iterations "
                f"({self.trainer.num_iterations})"
            )
        if (self.nodes.inference == 0) != (self.nodes.training == 0):
            raise ValueError(
                f"nodes.inference ({self.nodes.inference}) and nodes.training ({self.nodes.training}): both 0, or both at least 1"
            )
        if self.nodes.inference and self.trainer.share_gpus:
            raise ValueError("trainer.share_gpus has no effect with several nodes; leave it out or set nodes to 0")
        if self.sampler.cut_off_at == 1 and self.sampler.cut_off_min != SamplerConfig().cut_off_min:
            raise ValueError(
                f"sampler.cut_off_min ({self.sampler.cut_off_min}) has no effect with sampler.cut_off_at: 1, which cuts nothing off"
            )
        if self.sampler.cut_off_min > self.sampler.rollouts_per_task:
            raise ValueError(
                f"sampler.cut_off_min ({self.sampler.cut_off_min}) exceeds sampler.rollouts_per_task ({self.sampler.rollouts_per_task})"
            )
        self._refuse_what_the_source_has_not()
        if not self.evaluation.every:
            for name in ("select_split", "select_repeats"):
                if (value := getattr(self.evaluation, name)) != getattr(EvaluationConfig(), name):
                    raise ValueError(f"evaluation.{name} ({value}) has no effect with evaluation.every: 0")
        held_out = self.evaluation.final_splits
        if len(set(held_out)) < len(held_out):
            raise ValueError(
                f"evaluation.more_splits: {', '.join(held_out[1:])} repeats a split (evaluation.split: {held_out[0]})"
            )
        if set(self.evaluation.selecting_splits) & set(held_out):
            raise ValueError(
                f"evaluation.select_split: {self.evaluation.select_split} is evaluated at the end, too; a version that it has chosen "
                "looks better there than it is; choose another"
            )
        if self.evaluation.every > self.trainer.num_iterations:
            raise ValueError(
                f"evaluation.every ({self.evaluation.every}) exceeds trainer.num_iterations ({self.trainer.num_iterations}), so only the "
                "last version would be evaluated"
            )
        if self.sampler.max_staleness == 0 and self.sampler.over_stale == "drop":
            raise ValueError(
                "sampler.over_stale: drop has no effect with sampler.max_staleness: 0, where nothing ever becomes too old"
            )
        if not self.tracking.trackers and self.tracking.project != TrackingConfig().project:
            raise ValueError(f"tracking.project ({self.tracking.project}) has no effect without tracking.trackers")
        return self

    def _refuse_what_the_source_has_not(self) -> None:
        sampler, default = self.sampler, SamplerConfig()
        for name, sources in _ONLY_OF.items():
            if sampler.source not in sources and getattr(sampler, name) != getattr(default, name):
                raise ValueError(
                    f"sampler.{name} ({getattr(sampler, name)}) has no effect with sampler.source: {sampler.source}"
                )
        if sampler.source == "turns" and self.agent.memory != "window":
            raise ValueError(
                "sampler.source: turns cuts episodes into pieces, and with agent.memory: whole a piece would carry all that was before "
                "it; set agent.memory: window"
            )
        if wrong := [t for t in sampler.temperatures if not 0.01 <= t <= 2]:
            raise ValueError(f"sampler.temperatures: {wrong[0]} is not between 0.01 and 2, which vLLM samples at")
        if len(set(sampler.temperatures)) < len(sampler.temperatures):
            raise ValueError(f"sampler.temperatures names one twice: {', '.join(map(str, sampler.temperatures))}")
        if sampler.source not in ("groups", "turns") and self.algorithm.max_iteration_kl:
            raise ValueError(
                f"algorithm.max_iteration_kl ({self.algorithm.max_iteration_kl}) compares with the sampling policy, which sampler.source: "
                f"{sampler.source} has not; set it to 0"
            )


_ONLY_OF = {
    **dict.fromkeys(("rollouts_per_task", "over_stale", "cut_off_at", "drop_uniform", "curriculum"), ("groups",)),
    "max_staleness": ("groups", "turns"),
    "turns_per_iteration": ("turns",),
    "tasks_per_iteration": ("groups", "demonstrations", "rejection", "search"),
    **dict.fromkeys(("temperatures", "attempts"), ("rejection",)),
    **dict.fromkeys(("searches", "exploration"), ("search",)),
}
"""Settings of the sampler that only some sources have."""
