"""What a worker, and so agent code, cannot reach. docs/security.md says it in prose.

The fork server moves into a file system of its own, in which there is only what Python and AppWorld need to read. Each
worker gets namespaces, folders to write in, a user and limits of its own before any agent code runs in it. Needs root,
or a system that lets users make user namespaces; there all workers are the same user.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable

import linux
from outputs import copy_outputs

MAX_PROCESSES = 256  # of one worker, threads included: AppWorld's web framework uses up to 40
MAX_FILE_BYTES = 256 * 2**20  # AppWorld saves whatever agent code prints
MAX_FOLDER_BYTES = 512 * 2**20  # all that one worker writes; it is held in memory
MAX_OUTPUT_BYTES = 128 * 2**20  # of these, what is copied out; the scorer reads files of at most half of it
MAX_FILES = 16384
MAX_DESCRIPTORS = 1024
MAX_CPU_S = 12 * 3600  # a last resort: worlds have a watchdog, and one worker plays many
FIRST_USER = 1_900_000_000  # + the worker's pid: a range that no system gives to anybody
SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/nix/store")
DEVICES = ("null", "zero", "full", "random", "urandom")
TEMPORARY_FOLDERS = ("/dev/shm", "/tmp", "/var/tmp")  # the first is TMPDIR
OLD_ROOT = "/old-root"
WORKERS = "/workers"  # a folder for each worker; the worker sees what is in it elsewhere


def limit_resources(max_memory_bytes: int, *, own_user: bool) -> None:
    """Limit this process and, each by itself, those that it starts.

    own_user: the limit on the number of processes counts all those of the user, so it needs one that has no others.
    """
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: max_memory_bytes,
        resource.RLIMIT_AS: 2 * max_memory_bytes,  # shared memory is no data
        resource.RLIMIT_FSIZE: MAX_FILE_BYTES,
        resource.RLIMIT_CPU: MAX_CPU_S,
        resource.RLIMIT_NOFILE: MAX_DESCRIPTORS,
    }
    if own_user:
        limits[resource.RLIMIT_NPROC] = MAX_PROCESSES
    for limit, value in limits.items():
        _, most = resource.getrlimit(limit)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(limit, (value, value))


def restrict_privileges() -> None:
    """Take from this process what needs no namespace to be taken: new privileges, debuggers, keys, signals to others."""
    linux.leave_session_keyring()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    if linux.has_scopes():
        linux.enter_scope()


def protections(why_not: str) -> dict[str, str]:
    """{protection: "" when it is enforced here, or why it is not}; `why_not` says why there are no namespaces."""
    is_root = os.geteuid() == 0
    own_user = why_not or ("" if is_root else "only root can give every worker a user of its own")
    signals = f"{own_user}; nor has this kernel Landlock's scopes" if own_user and not linux.has_scopes() else ""
    return {
        "ground truth out of reach": why_not,
        "files read-only": why_not,
        "private outputs": why_not,
        "private temporary folder": why_not,
        "no network": why_not,
        "user of its own": own_user,
        "signals": signals,
        "process limit": why_not,
        "memory limit": "",
        "file size limit": "",
        "CPU limit": "",
    }


class Isolation:
    """The file system of a fork server and of its workers.

    full_root: what must not be seen even where it lies inside something that is shown.
    worker_root: its `data` is shown read-only, its `experiments/outputs` are the worker's own.
    """

    def __init__(self, full_root: str, worker_root: str) -> None:
        self.full_root = os.path.realpath(full_root)
        self.worker_root = worker_root
        self.outputs = os.path.join(worker_root, "experiments", "outputs")
        self.is_root = os.geteuid() == 0
        engine = os.path.dirname(os.path.abspath(__file__))
        libraries = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if os.path.isdir(path)]
        data = os.path.join(worker_root, "data")  # and not the lock beside it, which could be held
        needed = {sys.prefix, sys.base_prefix, engine, data, *libraries}
        self.shown = sorted(needed | {os.path.realpath(path) for path in needed})
        # A link in a path leads nowhere once the folders around it are gone.
        self.sources = {path: os.path.realpath(path) for path in (*self.shown, *SYSTEM_FOLDERS, self.outputs)}
        # One that has something to show, a repository in /tmp for example, cannot be writable too.
        self.temporary = [
            folder for folder in TEMPORARY_FOLDERS if not any(path.startswith(folder + "/") for path in self.shown)
        ]

    def works(self) -> str:
        """Why it cannot be entered here; "" when it can. Tried in a process that is then thrown away."""
        return _failure_in_a_child(self._rehearse)

    def _rehearse(self) -> None:
        self.enter()
        self.add_worker(0)
        self.confine(0)
        for path in (*self.shown, os.path.join(self.worker_root, "data", "tasks")):
            if not os.access(path, os.R_OK | os.X_OK):
                raise PermissionError(f"{path} is not readable by other users; run `chmod -R go+rX {path}`")

    def enter(self) -> None:
        """Move this process into the file system. Before it has threads or open folders."""
        unshare = linux.unshare if self.is_root else _unshare_as_user
        unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        _mount_memory("/tmp", "mode=755,size=16m")
        os.mkdir("/tmp" + OLD_ROOT)
        linux.pivot_root("/tmp", "/tmp" + OLD_ROOT)
        os.chdir("/")
        umask = os.umask(0o022)  # others must pass through the folders made here
        for path in SYSTEM_FOLDERS:
            if os.path.islink(OLD_ROOT + path):
                os.symlink(os.readlink(OLD_ROOT + path), path)
            elif os.path.isdir(OLD_ROOT + path):
                _show(path, self.sources[path], read_only=True)
        for path in self.shown:
            _show(path, self.sources[path], read_only=True)
        if os.path.isdir(self.full_root):
            _mount_memory(self.full_root, "mode=755,size=4k,ro")
        _show(self.outputs, self.sources[self.outputs], read_only=False)
        for name in DEVICES:
            _show(f"/dev/{name}", f"/dev/{name}", read_only=False)
        os.symlink("/proc/self/fd", "/dev/fd")
        os.mkdir("/proc")
        if self.is_root:
            linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV, "hidepid=2")
        else:
            linux.mount(OLD_ROOT + "/proc", "/proc", None, linux.MS_BIND | linux.MS_REC)
        for path in (*self.temporary, WORKERS):
            os.makedirs(path)
            _mount_memory(path, "mode=755,size=16m")
        linux.unmount(OLD_ROOT)
        os.rmdir(OLD_ROOT)
        linux.make_read_only("/", recursive=False)
        os.umask(umask)
        os.chdir(self.worker_root)
        # The paths of the outside do not exist here. IPython writes into its folder whenever a world is opened.
        os.environ["TMPDIR"] = TEMPORARY_FOLDERS[0]
        os.environ["IPYTHONDIR"] = TEMPORARY_FOLDERS[0] + "/.ipython"

    def add_worker(self, id: int) -> None:
        """Make the folder that holds all that a worker will write."""
        folder = f"{WORKERS}/{id}"
        os.mkdir(folder)
        _mount_memory(folder, f"mode=755,size={MAX_FOLDER_BYTES},nr_inodes={MAX_FILES}")

    def remove_worker(self, id: int) -> None:
        folder = f"{WORKERS}/{id}"
        linux.unmount(folder)
        os.rmdir(folder)

    def kill_user(self, pid: int) -> None:
        """Kill what is left of the user that worker `pid` was, at one blow: what forks all the time outruns any other."""
        if not self.is_root:
            return
        killer = os.fork()
        if killer == 0:
            try:
                os.setresuid(*[FIRST_USER + pid] * 3)
                os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(killer, 0)

    def confine(self, id: int) -> None:
        """Make this process, fresh from the fork, worker `id`: nothing that it can reach is anybody else's."""
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")  # when memory runs out, a worker goes first
        unshare = linux.unshare if self.is_root else _unshare_as_user
        unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC)
        user = FIRST_USER + os.getpid()
        for number, target in enumerate((self.outputs, *self.temporary)):
            folder = f"{WORKERS}/{id}/{number}"
            os.mkdir(folder, 0o700)
            if self.is_root:
                os.chown(folder, user, user)
            linux.mount(folder, target, None, linux.MS_BIND)
        if self.is_root:  # with all that is mounted in it; other users cannot, but then they share nothing
            linux.unmount(WORKERS)
        _mount_memory(WORKERS, "mode=000,size=4k,ro")
        os.chdir(self.worker_root)
        if self.is_root:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)  # the capabilities go with it
        else:
            linux.drop_capabilities()

    def collect(self, id: int, experiment_name: str, task_id: str) -> None:
        """Copy the outputs of a closed world to where the outside finds them.

        Raises ValueError when there is anything but files and folders of reasonable number and size.
        """
        target = os.path.join(self.outputs, experiment_name, "tasks", task_id)
        copy_outputs(f"{WORKERS}/{id}/0", (experiment_name, "tasks", task_id), target, MAX_OUTPUT_BYTES)


def _show(path: str, source: str, *, read_only: bool) -> None:
    """Make what the outside has at `source`, an absolute path without links, appear at `path` in here."""
    source = OLD_ROOT + source
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "a").close()
    linux.mount(source, path, None, linux.MS_BIND | linux.MS_REC)
    if read_only:
        linux.make_read_only(path, recursive=True)


def _mount_memory(target: str, options: str) -> None:
    flags = linux.MS_NOSUID | linux.MS_NODEV
    if options.endswith(",ro"):
        options, flags = options.removesuffix(",ro"), flags | linux.MS_RDONLY
    linux.mount("tmpfs", target, "tmpfs", flags, options)


def _unshare_as_user(namespaces: int) -> None:
    """Move into new namespaces without being root: with one of users, in which one stays who one is."""
    user, group = os.geteuid(), os.getegid()
    linux.unshare(namespaces | linux.CLONE_NEWUSER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _failure_in_a_child(action: Callable[[], None]) -> str:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException as error:
            text = str(error) or type(error).__name__
            if isinstance(error, OSError) and error.strerror:
                text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            os.write(theirs, text.encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        failure = pipe.read().decode()
    os.waitpid(pid, 0)
    return failure
