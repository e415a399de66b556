"""Options of sbatch that `site.sbatch` adds: which are ours to give, and which a setting of the site gives already.

Of an option that is given twice sbatch takes one, and of two that contradict each other it refuses the job: perhaps
the merge alone, once the arrays are in the queue. So they are compared before anything is submitted. Names that nobody
here knows may be a site's own (plugins add options): those only sbatch can judge, see `launch.arrays.refused`.
"""

from __future__ import annotations

from collections.abc import Iterator

from gra_hpc.config.site import SiteConfig
from gra_hpc.errors import ConfigError

_OURS = {
    "array": "the shards of a round",
    "output": "where gra logs finds the log",
    "error": "where gra logs finds the log",
    "input": "the jobs read nothing",
    "open-mode": "a log goes on after a requeue",
    "signal": "site.signal_lead_s says it",
    "time": "site.time_minutes and site.merge_time_minutes say it",
    "requeue": "a job that was preempted goes on by itself",
    "no-requeue": "a job that was preempted goes on by itself",
    "dependency": "each merge waits for its arrays",
    "kill-on-invalid-dep": "each merge waits for its arrays",
    "comment": "by it a run knows its jobs",
    "job-name": "by it a run knows its jobs",
    "nodes": "a shard has one node",
    "ntasks": "a shard is one task",
    "ntasks-per-node": "a shard is one task",
    "ntasks-per-core": "a shard is one task",
    "ntasks-per-socket": "a shard is one task",
    "ntasks-per-gpu": "a shard is one task",
    "export": "the jobs have the submitter's environment; what they need besides, site.setup says: [export NAME=VALUE]",
    "export-file": "what the jobs need in their environment, site.setup says: [export NAME=VALUE]",
    "wrap": "the jobs have a script",
    "wait": "the submitter does not wait",
    "test-only": "jobs are to be submitted",
    "parsable": "sbatch's answer is read",
    "quiet": "sbatch's answer is read",
    "help": "jobs are to be submitted",
    "usage": "jobs are to be submitted",
    "version": "jobs are to be submitted",
    "clusters": "a run asks the queue of one cluster: log in to that one",
    "cluster": "a run asks the queue of one cluster: log in to that one",
    "cluster-constraint": "a run asks the queue of one cluster: log in to that one",
    "uid": "the jobs are the submitter's",
    "gid": "the jobs are the submitter's",
}
"""Options that the suite gives, with why."""
_SETTINGS: dict[str, tuple[str, ...]] = {
    "account": ("account",),
    "partition": ("partition", "merge_partition"),
    "qos": ("qos",),
    "constraint": ("constraint",),
    "reservation": ("reservation",),
    "exclude": ("exclude",),
    "wckey": ("wckey",),
    "mem": ("memory_gb", "memory_per_gpu_gb"),
    "mail-type": ("mail",),
    "mail-user": ("mail",),
}
"""Options that settings of the site give once they are set."""
_ALWAYS = {
    "cpus-per-task": "site.cpus_per_task, site.cpus_per_gpu and site.merge_cpus",
    "cpus-per-gpu": "site.cpus_per_gpu",
    "mem-per-cpu": "site.memory_gb and site.merge_memory_gb",
    "mem-per-gpu": "site.memory_per_gpu_gb",
}
"""Options in whose place settings stand: the merge, which has no GPU and a size of its own, contradicts them."""
_GPUS = frozenset({"gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"})
_OTHERS = (
    "acctg-freq batch bb bbf begin chdir container contiguous core-spec cores-per-socket cpu-freq deadline"
    " delay-boot distribution exclusive extra extra-node-info get-user-env gpu-bind gpu-freq gres gres-flags hint"
    " hold ignore-pbs immediate licenses mcs-label mem-bind mincpus network nice no-kill"
    " nodefile nodelist oversubscribe overcommit power prefer priority profile propagate reboot segment"
    " sockets-per-node spread-job stepmgr switches thread-spec threads-per-core time-min tmp tres-bind tres-per-task"
    " use-min-nodes verbose wait-all-nodes x11"
)
"""The others that sbatch has had, of any version: names that may be shortened, and are none of ours."""
_SHORT = {
    "a": "array", "A": "account", "C": "constraint", "c": "cpus-per-task", "d": "dependency", "e": "error",
    "G": "gpus", "h": "help", "i": "input", "J": "job-name", "M": "clusters", "n": "ntasks", "N": "nodes",
    "o": "output", "p": "partition", "q": "qos", "Q": "quiet", "t": "time", "V": "version", "W": "wait", "x": "exclude",
}  # fmt: skip
_KNOWN = frozenset({*_OURS, *_SETTINGS, *_ALWAYS, *_GPUS, *_OTHERS.split()})


def option(key: object) -> str:
    """An option's whole name: `mail_type`, `--mail-type` and `mail-typ` are one; what sbatch does not know stays."""
    text = str(key).strip()
    if text.lstrip("-") in _SHORT:
        return _SHORT[text.lstrip("-")]
    name = text.lstrip("-").replace("_", "-")
    if name in _KNOWN:
        return name
    whole = [known for known in _KNOWN if name and known.startswith(name)]
    return whole[0] if len(whole) == 1 else name


def check(site: SiteConfig) -> None:
    """Refuse options that take what is ours, and those that would be given twice.

    Raises:
        ConfigError: which, and what to set instead.
    """
    for key, problem, then in _problems(site):
        raise ConfigError(f"site.sbatch.{key}: {problem}", then)


def _problems(site: SiteConfig) -> Iterator[tuple[object, str, str]]:
    seen: dict[str, object] = {}
    for key, value in site.sbatch.items():
        name = option(key)
        if not name or any(c.isspace() or c in "=#" for c in name):
            yield key, "not the name of an option", "sbatch --help names them; write NAME: VALUE"
        if str(key).strip().startswith("-") or (str(key) in _SHORT):
            yield key, "expected an option's long name, without dashes", f"{name}: {value}"
        if value is None or value is False or isinstance(value, (list, dict)) or "\n" in str(value):
            yield key, f"{value!r}: expected a text, a number or true", f"site.sbatch.{key}=VALUE, or leave it out"
        if name in seen:
            yield key, f"the same option as {seen[name]}", "leave one of them out"
        seen[name] = key
        if name in _OURS:
            yield key, f"--{name} is the suite's own: {_OURS[name]}", "leave it out"
        if name in _ALWAYS:
            yield key, f"--{name} would contradict what the suite asks for", f"set {_ALWAYS[name]} instead"
        for setting in _SETTINGS.get(name, ()):
            if getattr(site, setting):
                yield key, f"site.{setting} says it already, so --{name} would be given twice", "leave one of them out"
        if site.gpus_per_node and site.gpu_style != "none" and _asks_for_gpus(name, value, site):
            yield (
                key,
                f"--{name} beside site.gpus_per_node={site.gpus_per_node}: GPUs would be asked for twice",
                "leave it out (site.gpu_type, site.gpu_style), or set site.gpu_style=none",
            )


def _asks_for_gpus(name: str, value: object, site: SiteConfig) -> bool:
    """Whether an option asks for GPUs, or stands where those of the site are asked for."""
    return name in _GPUS or (name == "gres" and (site.gpu_style == "gres" or "gpu" in str(value)))
