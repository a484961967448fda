"""Where a run's nodes come from, what each of them runs, and what is refused: without starting anything."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import yaml

import loop_rl.running.launch
from loop_rl.config.base import ConfigError
from loop_rl.config.load import dump_config, load_config
from loop_rl.config.settings import Config
from loop_rl.machine.devices import visible_gpus
from loop_rl.machine.network import NoAddress, address_of, interface_of, is_own, own_address
from loop_rl.running.hosts import LocalHosts, SshHosts, find_hosts, read_hostfile
from loop_rl.serving.roles import Role, check_gpus, num_gpus, role_of, trainer_gpus
from loop_rl.serving.server import server_gpus
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir
from loop_rl.training.launcher import refuse_contradictions

pytestmark = pytest.mark.slow(60)

REPO = Path(__file__).resolve().parents[2]
TINY = REPO / "configs" / "tiny.yaml"


def config(*overrides: str) -> Config:
    return load_config(TINY, list(overrides))


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def launch(monkeypatch, capsys) -> Iterator[Callable[..., Result]]:
    """`python -m loop_rl.launch` in this process, where no Slurm is installed; keywords are environment variables."""
    handlers = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(REPO)

    def run(*arguments: str, config: Path = TINY, path: str = "/nowhere", **environment: str) -> Result:
        for name in [name for name in os.environ if name.startswith("SLURM")]:
            monkeypatch.delenv(name)
        for name, value in ({"PATH": path} | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["launch", "--config", str(config), *arguments])
        returncode = loop_rl.running.launch.main()
        return Result(returncode, *capsys.readouterr())

    yield run
    for sig, handler in handlers.items():
        signal.signal(sig, handler)


def error_of(result: Result) -> str:
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture
def slurm_programs(tmp_path) -> str:
    """A PATH with scontrol and sbatch that answer as Slurm's do."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {"scontrol": "echo n1; echo n2", "sbatch": 'echo "17;cluster"'}
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


# What is missing


def test_without_a_way_to_other_nodes_the_error_lists_the_ways(launch):
    message = error_of(launch("--nodes", "2"))
    for way in ("a Slurm allocation", "sbatch", "HOSTFILE=", "LOCAL_NODES=2"):
        assert way in message


@pytest.mark.parametrize("num_nodes", [1, 3])
def test_another_number_of_nodes_than_the_config_gives_roles_is_refused(launch, num_nodes):
    message = error_of(launch("--local-nodes", str(num_nodes), "nodes.inference=1", "nodes.training=1"))
    assert "nodes.inference (1)" in message and "NODES=2" in message and f"there are {num_nodes}" in message


def test_the_32b_config_asks_for_its_two_nodes(launch):
    result = launch("--dry-run", config=REPO / "configs" / "qwen2.5-32b.yaml")
    assert "give NODES=2" in error_of(result)


def test_an_allocation_of_another_size_is_refused(launch, slurm_programs):
    job = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n[1-2]"}
    message = error_of(launch("--nodes", "3", path=slurm_programs, **job))
    assert "allocation 5 has 2 nodes" in message and "NODES=2" in message


def test_a_hostfile_has_no_effect_on_one_node_or_in_an_allocation(launch, tmp_path, slurm_programs):
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1\n127.0.0.2\n")
    assert "no effect" in error_of(launch("--hostfile", str(hosts)))
    assert "no effect" in error_of(launch("--local-nodes", "2", "--hostfile", str(hosts)))
    job = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n[1-2]"}
    assert "no effect" in error_of(launch("--nodes", "2", "--hostfile", str(hosts), path=slurm_programs, **job))


def test_what_a_hostfile_may_say(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# head\n\nroot@one  # first\ntwo\n")
    assert read_hostfile(file) == ["root@one", "two"]
    file.write_text("one\ntwo slots=8\n")
    with pytest.raises(ConfigError, match=r"hosts, line 2: slots=8: .*trainer\.num_processes"):
        read_hostfile(file)
    file.write_text("one\none\n")
    with pytest.raises(ConfigError, match="line 2: one is listed twice"):
        read_hostfile(file)
    with pytest.raises(ConfigError, match="HOSTFILE=.*cannot be read"):
        read_hostfile(tmp_path / "nothing")


def test_the_first_host_must_be_this_machine(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("192.0.2.1\n127.0.0.1\n")  # an address that documentation uses, and no machine
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1.* is not this machine"):
        find_hosts(2, file, {})
    with pytest.raises(ConfigError, match="NODES=3, and .* lists 2 hosts"):
        find_hosts(3, file, {})
    file.write_text("no-such-host.invalid\n127.0.0.1\n")
    with pytest.raises(NoAddress, match="no-such-host"):
        find_hosts(2, file, {})


# What would run


def test_local_nodes_get_roles_and_every_command_is_shown(launch, tmp_path):
    result = launch("--local-nodes", "3", "--dry-run", f"runs_dir={tmp_path}")
    assert "nodes.inference=1 nodes.training=2" in result.stderr
    assert yaml.safe_load(result.stdout)["nodes"] == {"inference": 1, "training": 2}
    assert re.findall(r"^# node (\d) \((\S+)\)", result.stdout, flags=re.MULTILINE) == [
        ("0", "local-0"),
        ("1", "local-1"),
        ("2", "local-2"),
    ]
    assert result.stdout.count("start_vllm") == 1 and result.stdout.count("loop_rl.sampling.sampler") == 1
    assert re.search(
        r"--num_processes 2 --num_machines 2 --machine_rank 1 --main_process_ip '<address of node 1>'", result.stdout
    )
    assert not any(tmp_path.iterdir())


def test_two_inference_nodes_serve_and_the_third_trains(launch):
    result = launch("--local-nodes", "3", "--dry-run", "nodes.inference=2", "nodes.training=1", "server.replicas=2")
    assert result.stdout.count("start_vllm") == 4 and result.stdout.count("--host '<its address>'") == 2
    assert result.stdout.count("loop_rl.train ") == 1 and "--num_machines" not in result.stdout


def test_a_hostfile_goes_by_the_remote_shell(launch, tmp_path):
    (tmp_path / "hosts").write_text("127.0.0.1\n127.0.0.2\n")
    arguments = ["--nodes", "2", "--hostfile", str(tmp_path / "hosts"), "--dry-run"]
    assert "# node 1 (127.0.0.2): ssh -o BatchMode=yes" in launch(*arguments).stdout
    shown = launch(*arguments, REMOTE_SHELL="ssh -p 2222").stdout
    assert (
        f"# node 1 (127.0.0.2): ssh -p 2222 127.0.0.2 'cd {REPO} && exec {sys.executable} -m loop_rl.running.node "
        in shown
    )


def test_what_the_remote_shell_gets_is_one_command_line(tmp_path):
    """A shell that ignores the host, and runs the command here."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\nshift\nexec sh -c "$1"\n')
    shell.chmod(0o755)
    hosts = SshHosts(("127.0.0.1", "127.0.0.2"), (str(shell),))
    command = hosts.command(1, [sys.executable, "-c", "import os; print(os.getcwd(), 'a b')"])
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{os.getcwd()} a b\n"


def test_in_an_allocation_by_srun_from_its_first_node(launch, slurm_programs):
    job = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n[1-2]", "SLURMD_NODENAME": "n1"}
    shown = launch("--nodes", "2", "--dry-run", path=slurm_programs, **job).stdout
    assert "# node 0 (n1):" in shown
    assert re.search(
        r"# node 1 \(n2\): srun --nodes=1 --ntasks=1 --nodelist=n2 --overlap .* -m loop_rl.running.node", shown
    )
    elsewhere = launch("--nodes", "2", "--dry-run", path=slurm_programs, **job | {"SLURMD_NODENAME": ""}).stdout
    assert re.search(r"# node 0: srun .*--nodelist=n1 .* -m loop_rl.launch --config \S+ --nodes 2\n", elsewhere)


def test_sbatch_is_shown_and_not_called(launch, slurm_programs, tmp_path):
    shown = launch("--nodes", "2", "--dry-run", f"runs_dir={tmp_path}", path=slurm_programs).stdout
    script = REPO / "launch" / "train.sbatch"
    assert re.search(rf"sbatch --parsable --nodes=2 .*--output={tmp_path}/tiny-%j.log {script} --config", shown)


def test_a_submitted_job_and_its_log_are_named(launch, slurm_programs, tmp_path, appworld_root):
    arguments = ["--nodes", "2", f"runs_dir={tmp_path}", f"tasks.root={appworld_root}"]
    result = launch(*arguments, path=slurm_programs)
    assert result.returncode == 0, result.stderr
    assert f"Slurm job 17; its log: {tmp_path}/tiny-17.log" in result.stdout


def test_the_batch_script_is_sound():
    script = REPO / "launch" / "train.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_make_gives_its_variables_on():
    def command(*variables: str) -> str:
        shown = subprocess.run(
            ["make", "-n", "train", *variables], cwd=REPO, capture_output=True, text=True, check=True
        )
        (line,) = re.findall(r"loop_rl\.launch .*", shown.stdout.replace("\\\n", " "))
        return " ".join(line.split())

    assert command() == "loop_rl.launch --config configs/tiny.yaml --nodes 1"
    assert command("LOCAL_NODES=2", "RESTARTS=1") == (
        "loop_rl.launch --config configs/tiny.yaml --local-nodes 2 --restarts 1"
    )
    assert "--nodes 2 --hostfile h --dry-run" in command("NODES=2", "HOSTFILE=h", "DRY_RUN=1")


# GPUs


def test_roles_and_their_gpus():
    sizes = ["server.replicas=2", "server.tensor_parallel_size=2", "trainer.num_processes=3"]
    one, shared = config(*sizes), config(*sizes, "trainer.share_gpus=true")
    several = config(*sizes, "nodes.inference=1", "nodes.training=2")
    assert [role_of(several, index) for index in range(3)] == [Role.INFERENCE, Role.TRAINING, Role.TRAINING]
    assert num_gpus(one, Role.EVERYTHING) == 7 and num_gpus(shared, Role.EVERYTHING) == 4
    assert num_gpus(several, Role.INFERENCE) == 4 and num_gpus(several, Role.TRAINING) == 3
    devices = [str(index) for index in range(10, 18)]
    assert [server_gpus(one, index, devices) for index in range(2)] == [["10", "11"], ["12", "13"]]
    assert trainer_gpus(one, Role.EVERYTHING, devices) == ["14", "15", "16"]
    assert trainer_gpus(shared, Role.EVERYTHING, devices) == ["10", "11", "12"]
    assert trainer_gpus(several, Role.TRAINING, devices) == ["10", "11", "12"]
    assert LocalHosts.of(several, 3, [*devices, "18", "19"]).gpus == ("10,11,12,13", "14,15,16", "17,18,19")
    assert LocalHosts.of(several, 3, []).command(1, ["true"]) == ["true"]


def test_too_few_gpus_are_refused_by_the_settings_that_need_them():
    with pytest.raises(
        ConfigError, match=r"here: server\.replicas \(1\).*trainer\.num_processes \(1\) need 2 GPUs.*share_gpus"
    ):
        check_gpus(config(), Role.EVERYTHING, 1, "here")
    check_gpus(config("trainer.share_gpus=true"), Role.EVERYTHING, 1, "here")
    with pytest.raises(ConfigError, match=r"node 1: trainer\.num_processes \(8\) need 8 GPUs, and it has 4; set fewer"):
        check_gpus(config("trainer.num_processes=8"), Role.TRAINING, 4, "node 1")


def test_the_one_gpu_config_fits_one_gpu():
    one_gpu = load_config(REPO / "configs" / "qwen2.5-1.5b.yaml")
    check_gpus(one_gpu, Role.EVERYTHING, 1, "here")
    eight = [load_config(REPO / "configs" / f"{name}.yaml") for name in ("qwen2.5-7b", "qwen3-14b", "qwen2.5-32b")]
    assert all(num_gpus(config, role_of(config, index)) == 8 for config in eight for index in range(2))


def test_gpus_are_counted_without_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f")
    assert visible_gpus() == ["3", "GPU-8f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: a)'\necho 'GPU 1: H100 (UUID: b)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert visible_gpus() == []


# Accelerate started by hand


def test_what_accelerate_may_not_contradict():
    run = config("trainer.zero_stage=2", "trainer.num_processes=2")
    two = {"WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"}
    refuse_contradictions(run, two)
    refuse_contradictions(run, two | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "ACCELERATE_GRADIENT_CLIPPING": "1"})
    wrong = {
        "WORLD_SIZE": ("4", "--num_processes 2"),
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": ("3", "zero_stage is 3, where the run has 2"),
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("cpu", "trainer.offload_optimizer"),
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("ds.json", "settings of its own"),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("4", "trainer.minibatch_rollouts"),
        "ACCELERATE_MIXED_PRECISION": ("bf16", "model.dtype"),
        "ACCELERATE_CONFIG_DS_FIELDS": ("deepspeed_multinode_launcher,zero_stage", "zero_stage: the run's settings"),
    }
    for variable, (value, words) in wrong.items():
        with pytest.raises(ConfigError, match=re.escape(words)):
            refuse_contradictions(run, two | {variable: value})


@pytest.mark.parametrize("name", ["one-node", "two-nodes"])
def test_accelerate_files_have_the_launcher_that_joins_nodes_and_no_setting_of_the_run(name):
    tree = yaml.safe_load((REPO / "configs" / "accelerate" / f"{name}.yaml").read_text())
    assert tree["distributed_type"] == "DEEPSPEED"
    assert tree["deepspeed_config"] == {"deepspeed_multinode_launcher": "standard"}


# Addresses


def test_addresses_of_this_machine():
    assert own_address("127.0.0.1") == "127.0.0.1" and interface_of("127.0.0.1") == "lo"
    assert address_of("127.0.0.2") == "127.0.0.2" and is_own("127.0.0.2") and not is_own("192.0.2.1")
    with pytest.raises(NoAddress, match=r"192\.0\.2\.1: no interface"):
        interface_of("192.0.2.1")


ACCELERATE = ["accelerate", "launch", "--config_file", "configs/accelerate/one-node.yaml"]
DEEPSPEED = ["deepspeed", "--no_local_rank", "--num_gpus", "1", "--module"]


@pytest.mark.parametrize("launcher", [[*ACCELERATE, "-m"], DEEPSPEED], ids=["accelerate", "deepspeed"])
def test_a_launcher_by_hand_trains_on_what_a_sampler_writes(launcher, tmp_path):
    tiny.save_model(tmp_path / "model")
    config = tiny.make_config(tmp_path / "model", num_iterations=1, num_processes=1)
    config = config.model_copy(update={"runs_dir": str(tmp_path / "runs")})
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    bin_folder = Path(sys.executable).parent
    command = [f"{bin_folder}/{launcher[0]}", *launcher[1:], "loop_rl.train", "--config", str(file)]
    env = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def train(*overrides: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *overrides], cwd=REPO, env=env, capture_output=True, text=True, timeout=300)

    if launcher is not DEEPSPEED:
        assert "no such run; start its sampler first: python -m loop_rl.launch --no-trainer" in train().stderr
    groups = tiny.make_groups(3, version=-1)  # made-up log-probabilities are compared with no version
    RolloutStore(RunDir.create(config)).assign(0, {group.group_id: group.rollouts for group in groups}, dropped=[])
    if launcher is not DEEPSPEED:
        assert "another config (trainer.zero_stage=2 there, 3 asked for)" in train("trainer.zero_stage=3").stderr
    result = train()
    assert result.returncode == 0, result.stderr[-3000:]
    assert RunDir(config.run_dir).latest_version() == 1
