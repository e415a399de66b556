"""The configuration: dataclasses with a docstring per field; `rules.check` refuses impossible values.

A run is described by one `RunConfig`. `gra_hpc.config.presets` composes it from YAML files and `key=value` overrides.
Fields marked `PLACE` say where and how work runs: they may change between two attempts of one shard and are not part
of the run's fingerprint. Everything else is frozen when the run is planned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

PLACE: dict[str, Any] = {"fingerprint": False}
"""Metadata of a field that does not change what is written, only where and how it is computed."""

DOMAINS = ("coding", "math", "qa", "reasoning", "role_play", "language", "creation")
"""The seven domains of the paper, section 3."""

ROLES = ("generator", "reviewer", "adjudicator")


def place(default: Any) -> Any:
    """A dataclass field outside the fingerprint."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=PLACE)
    return field(default=default, metadata=PLACE)


class Flow(Enum):
    """Which method turns seeds into samples."""

    synthesize = "synthesize"
    refine = "refine"
    seeds = "seeds"


class Policy(Enum):
    """How roles are given to the committee."""

    random = "random"
    fixed = "fixed"
    single = "single"


class Settle(Enum):
    """Who settles a sample on which the Reviewers disagree."""

    adjudicator = "adjudicator"
    majority = "majority"


class SystemRole(Enum):
    """Whether a model's chat template takes a system message."""

    auto = "auto"
    yes = "yes"
    no = "no"


class EngineKind(Enum):
    """What hosts the models."""

    vllm = "vllm"
    simulated = "simulated"


class Executor(Enum):
    """Who runs the jobs."""

    local = "local"
    slurm = "slurm"


class Residency(Enum):
    """Which engines are awake at once."""

    auto = "auto"
    together = "together"
    turns = "turns"


class OwnNetwork(Enum):
    """Whether engines get a network namespace of their own."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass
class SamplingConfig:
    """Sampling of a role. A field left out (null) is taken from the next wider setting."""

    temperature: float | None = None
    """0 is greedy; the paper uses 0.2."""
    top_p: float | None = None
    """Nucleus sampling; the paper uses 0.9."""
    max_tokens: int | None = None
    """Longest answer, in tokens; the paper uses 4096."""
    repetition_penalty: float | None = None
    """1.0 is off. Very small models need a little (1.1) not to repeat themselves."""


@dataclass
class ModelConfig:
    """One model of the pool, and how its engine is started."""

    path: str = MISSING
    """Hub id (`org/name`) or a local directory with config.json and safetensors."""
    revision: str = ""
    """Hub commit to use. Empty: the one in the local cache, pinned when the run is planned."""
    licence: str = ""
    """Licence of the weights, printed in the dataset card."""
    dtype: str = "auto"
    """vLLM's dtype: auto, bfloat16, float16, float32."""
    quantization: str = ""
    """vLLM's quantization method (awq, gptq, fp8, ...). Empty: as the model's own config says."""
    max_model_len: int = 8192
    """Context length in tokens, prompt and answer together."""
    chat_template: str = ""
    """A Jinja file to use instead of the model's own chat template (needed for base models)."""
    system_role: SystemRole = SystemRole.auto
    """Whether the chat template takes a system message; otherwise it is put before the first user message."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless named here, per model."""
    tensor_parallel: int = place(0)
    """Devices per replica. 0: placement decides."""
    replicas: int = place(0)
    """Engines for this model on one node. 0: placement decides."""
    kv_cache_gb: float = place(0.0)
    """Memory for the KV cache of one replica, in GB. 0: placement decides. On a CPU, about 0.5."""
    load_format: str = "auto"
    """vLLM's load_format; `dummy` gives random weights, for tests of machinery."""
    engine_args: dict[str, Any] = place({})
    """More arguments of vLLM's server, as `name: value`; those that other settings or placement own are refused."""


@dataclass
class MemberConfig:
    """One seat of the committee: a model, possibly with a persona and sampling of its own."""

    model: str = MISSING
    """Name of an entry in `models`."""
    persona: str = ""
    """One or two sentences put at the end of this member's instructions."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Overrides of the role's sampling for this member."""


@dataclass
class FixedRolesConfig:
    """Members by role, for `method.policy=fixed` (and the one member of `single`, as generator)."""

    generator: str = ""
    """Committee member that generates. Also the one member of `policy=single`; empty: the first."""
    reviewers: list[str] = field(default_factory=list)
    """Committee members that review."""
    adjudicator: str = ""
    """Committee member that adjudicates."""


@dataclass
class MethodConfig:
    """The GRA method (arXiv 2504.12322) and its ablations."""

    flow: Flow = Flow.synthesize
    """synthesize: new instructions; refine: rewrite the seeds' responses (GRA-Refine); seeds: the seeds as they are,
    nobody is asked (the baseline)."""
    policy: Policy = Policy.random
    """random: roles drawn per sample; fixed: `method.fixed`; single: one member in all roles."""
    fixed: FixedRolesConfig = field(default_factory=FixedRolesConfig)
    """The members by role for `policy=fixed`."""
    reviewers: int = 3
    """Reviewers per sample; fewer where the committee is too small."""
    samples_per_seed: int = 1
    """Candidates anchored on each seed, per round."""
    rounds: int = 1
    """Rounds; each draws examples from the seeds and all samples accepted so far. The paper runs 5."""
    target_accepted: int = 0
    """Rows wanted per round (the best are kept). Overrides samples_per_seed from the measured acceptance. 0: off."""
    expected_acceptance: float = 0.3
    """Share of candidates expected to be accepted, until a round has measured it."""
    examples_min: int = 2
    """Fewest examples shown to the Generator."""
    examples_max: int = 4
    """Most examples shown to the Generator."""
    keywords: int = 3
    """Keywords per record."""
    summary_words: int = 30
    """Longest summary, in words."""
    review_instruction: bool = True
    """Ask the Reviewers about the instruction first; one zero rejects the sample before its response is paid for."""
    review_response: bool = True
    """Ask the Reviewers about the response. Off: every parsed response is accepted (ablation)."""
    accept_mean: float = 8.0
    """Reject when the mean over Reviewers is below this."""
    accept_sd: float = 1.5
    """Above this population standard deviation over Reviewers, the sample is settled by `method.settle`."""
    settle: Settle = Settle.adjudicator
    """adjudicator: the paper's; majority: accepted when most Reviewers score it at least accept_mean (ablation)."""
    adjudicate_mean: float = 8.0
    """Keep an adjudicated sample when the mean of the Adjudicator's scores is at least this."""
    max_tries: int = 3
    """Times a question is asked when its answer is cut off or cannot be parsed; then the sample has failed."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(0.2, 0.9, 4096, 1.0))
    """Sampling of all roles."""
    role_sampling: dict[str, SamplingConfig] = field(default_factory=dict)
    """Overrides by role: generator, reviewer, adjudicator."""
    verdict_tokens: int = 512
    """Longest review or verdict, in tokens: their JSON is short, and a bound keeps a runaway cheap."""
    seed: int = 0
    """Drawn roles, examples and sampling seeds derive from this."""


@dataclass
class SeedsConfig:
    """The seed dataset and the rules for its records."""

    path: str = MISSING
    """File or directory (jsonl, json, csv, tsv, parquet; text also compressed), or a Hub dataset id. Relative paths
    start at the working directory, then at `configs/`."""
    name: str = ""
    """Configuration name of a Hub dataset."""
    split: str = "train"
    """Split of a Hub dataset, or of a JSON file with a list for each."""
    revision: str = ""
    """Commit of a Hub dataset."""
    licence: str = ""
    """Licence of the seeds, printed in the dataset card."""
    fields: dict[str, str] = field(default_factory=dict)
    """Field map `instruction|input|response|domain|keywords|summary|messages: source field` for other layouts."""
    limit: int = 0
    """Use the first N accepted records. 0: all."""
    max_chars: int = 20000
    """Longer instructions or responses are rejected."""
    duplicates: str = "reject"
    """reject: the second record with the same text is rejected; keep: it is a seed of its own (its id counts it)."""


@dataclass
class DecontaminationConfig:
    """Removal of rows that overlap with benchmarks."""

    sources: list[str] = field(default_factory=list)
    """Benchmark files (jsonl, json, csv, tsv, txt, also compressed; parquet, arrow), directories or Hub dataset ids."""
    ngram: int = 13
    """Rows that share a run of this many words with a benchmark are removed; shorter texts match an instruction as a
    whole."""


@dataclass
class MergeConfig:
    """What the merge does with the accepted samples."""

    exact: bool = True
    """Drop rows whose instruction and response are the same but for case, spacing and the punctuation of sentences."""
    fuzzy: bool = True
    """Drop near-duplicates (MinHash-LSH, verified)."""
    fuzzy_threshold: float = 0.8
    """Jaccard similarity of word shingles from which two rows are near-duplicates."""
    shingle: int = 5
    """Words per shingle."""
    permutations: int = 128
    """MinHash permutations."""
    semantic: bool = True
    """The paper's greedy rule: best score first, kept if its cosine to all kept so far stays below the threshold."""
    semantic_threshold: float = 0.9
    """Cosine similarity from which the worse row is dropped; the paper uses 0.9."""
    embed_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Sentence embedding model: Hub id or local directory; empty: no semantic step."""
    exact_search_rows: int = 200_000
    """Up to this many rows the semantic step compares all pairs; above, each row with the clusters nearest to it, which
    can miss some: so it is frozen."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """Removal of rows that overlap with benchmarks."""
    allow_partial: bool = place(False)
    """Make a release from the published shards even if some are missing; its card declares the coverage."""
    memory_gb: float = place(6.0)
    """Memory the merge may use, in GB."""


@dataclass
class DiagnosticsConfig:
    """What the report says of the data without training on them."""

    rows: int = 2000
    """Rows that are measured, drawn by a digest of their ids. 0: no diagnostics."""
    picture_rows: int = 750
    """Rows, and as many seeds, in the pictures."""
    scorer: str = ""
    """Small causal language model (Hub id or directory) that measures instruction-following difficulty; empty: not
    measured."""
    scorer_rows: int = 500
    """Rows, and as many seeds, that the scorer reads."""


@dataclass
class ReleaseConfig:
    """The release dataset."""

    name: str = ""
    """Title in the dataset card. Empty: the run's name."""
    licence: str = "other"
    """Licence of the released data, for the dataset card."""
    validation: float = 0.02
    """Share of seeds whose samples form the validation split (no seed is in both)."""
    shard_mb: int = 256
    """Size of one Parquet file, in MB."""
    formats: list[str] = field(default_factory=list)
    """Exports beside Parquet: alpaca, sharegpt, chat."""
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    """Diversity, coverage and overlap of the rows, for the report."""


@dataclass
class EngineConfig:
    """How engines are started, watched and fed."""

    kind: EngineKind = EngineKind.vllm
    """vllm, or simulated (made-up answers: for planning and tests of scale; the card says so)."""
    start_timeout_s: int = place(900)
    """Longest time from an engine's start to its first answered health check."""
    call_timeout_s: int = place(600)
    """An engine that has calls but gives no token for this long counts as hung and is restarted."""
    max_restarts: int = place(3)
    """Restarts of one engine without an answered call between them; then the attempt fails with the end of its log."""
    max_running: int = place(256)
    """Calls in flight per replica (vLLM's max_num_seqs)."""
    residency: Residency = place(Residency.auto)
    """together: all engines awake; turns: they take turns on the devices; auto: placement decides."""
    host_embedder: bool = place(False)
    """Host the sentence embedding model as an engine beside the others (vLLM pooling), placed with them on the node's
    devices: accepted samples are embedded as they come. Off: sentence-transformers does it at a shard's end, when the
    engines have left the devices. Not run on a GPU."""
    python: str = place("")
    """Python of the engines' environment. Empty: the one that runs the shard."""
    env: dict[str, str] = place({})
    """Environment variables for the engines."""
    own_network: OwnNetwork = place(OwnNetwork.auto)
    """Give each engine a network namespace of its own, so that nobody else on the node reaches its internal TCP ports:
    where the kernel allows it. auto: on CPU nodes (not tried on GPUs)."""
    simulated_latency_s: float = place(0.0)
    """Simulated engine: seconds a call takes."""
    simulated_failures: float = 0.0
    """Simulated engine: share of answers that are cut off, to exercise retries."""


@dataclass
class LaunchConfig:
    """How the run is cut into shards and jobs."""

    shards: int = place(0)
    """Shards per round; fixed once the run is planned. 0: from seeds_per_shard."""
    seeds_per_shard: int = place(500)
    """Seeds per shard, when shards is 0."""
    window: int = place(256)
    """Samples in flight per shard."""
    parallel: int = place(0)
    """Array tasks that run at once. 0: no limit (local executor: one)."""
    journal_fsync_s: float = place(5.0)
    """Journal: longest time an answer is not yet on the disk, in seconds (a power loss costs it; a kill does not)."""
    journal_fsync_calls: int = place(256)
    """Journal: at most this many answers are not yet on the disk."""
    heartbeat_s: float = place(10.0)
    """Seconds between two heartbeats of a shard."""


@dataclass
class SiteConfig:
    """A cluster, or this machine."""

    name: str = place("local")
    """Name shown in plans."""
    executor: Executor = place(Executor.local)
    """local: processes on this machine; slurm: sbatch through submitit."""
    account: str = place("")
    """Slurm account."""
    partition: str = place("")
    """Slurm partition of the shards."""
    merge_partition: str = place("")
    """Slurm partition of the merge; empty: as the shards."""
    qos: str = place("")
    """Slurm quality of service."""
    constraint: str = place("")
    """Slurm node features."""
    reservation: str = place("")
    """Slurm reservation."""
    exclude: str = place("")
    """Nodes to leave out."""
    gpu_style: str = place("gpus")
    """How GPUs are asked for: gpus (--gpus-per-node), gres (--gres=gpu:N), none."""
    gpu_type: str = place("")
    """GPU type as Slurm names it (a100, h100, ...)."""
    gpus_per_node: int = place(0)
    """GPUs of a node that a shard gets. 0: CPU."""
    gpu_memory_gb: float = place(0.0)
    """Memory of one GPU, in GB."""
    cpus_per_task: int = place(0)
    """CPUs of a shard. 0: `cpus_per_gpu` for each of its GPUs, or not asked for (local: all)."""
    cpus_per_gpu: int = place(0)
    """CPUs of a shard for each of its GPUs, where `cpus_per_task` is 0."""
    memory_gb: float = place(0.0)
    """Host memory of a shard, in GB. 0: `memory_per_gpu_gb` for each of its GPUs, or the site's default."""
    memory_per_gpu_gb: float = place(0.0)
    """Host memory of a shard for each of its GPUs, in GB, where `memory_gb` is 0."""
    merge_cpus: int = place(2)
    """CPUs of the merge."""
    merge_memory_gb: float = place(8.0)
    """Host memory of the merge, in GB."""
    time_minutes: int = place(240)
    """Time limit of a shard, in minutes."""
    merge_time_minutes: int = place(240)
    """Time limit of the merge, in minutes."""
    signal_lead_s: int = place(90)
    """Seconds before the time limit at which Slurm signals a shard to drain and requeue."""
    max_array_size: int = place(0)
    """Largest array. 0: ask Slurm (MaxArraySize)."""
    parallel: int = place(0)
    """Shards of a run that run at once, where `launch.parallel` is 0. 0: as many as Slurm starts."""
    wckey: bool = place(False)
    """Emit --wckey (submitit does; some sites reject it)."""
    modules: list[str] = place([])
    """Environment modules to load in the job."""
    setup: list[str] = place([])
    """Shell lines run in the job before Python (trusted: they come from the site file)."""
    sbatch: dict[str, Any] = place({})
    """More sbatch options, as `name: value`."""
    python: str = place("")
    """Python for the jobs. Empty: the one that submits."""
    container: str = place("")
    """none (empty), apptainer:IMAGE, or pyxis:IMAGE."""
    scratch: str = place("")
    """Shared directory for runs and the model cache."""
    local_dir: str = place("")
    """Node-local directory for sockets, temporary files and weight copies. Empty: $TMPDIR or /tmp."""
    copy_weights: bool = place(False)
    """Copy the models' weights to `local_dir` and load them from there: one copy per node, kept for the next task."""
    copy_weights_gb: float = place(0.0)
    """Most that copies of weights take on a node, in GB; the longest unused go first. 0: nine tenths of the disk."""
    proxy: str = place("")
    """HTTP proxy for login-node downloads."""
    calibration: str = place("")
    """What `gra calibrate` measured: plans and placement go by it. Empty: SITE.calibration.json beside the site's file,
    if it is there; else stated defaults."""

    @property
    def task_cpus(self) -> int:
        """CPUs to ask for, for one shard. 0: not asked for."""
        return self.cpus_per_task or self.cpus_per_gpu * self.gpus_per_node

    @property
    def task_memory_gb(self) -> float:
        """Host memory to ask for, for one shard, in GB. 0: not asked for."""
        return self.memory_gb or self.memory_per_gpu_gb * self.gpus_per_node


@dataclass
class RunConfig:
    """Everything about one run."""

    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    """The seed dataset."""
    models: dict[str, ModelConfig] = field(default_factory=dict)
    """The pool's models, by name; those without a seat on the committee are left out."""
    committee: dict[str, MemberConfig] = field(default_factory=dict)
    """The committee's members, by name. Empty: every model is a member under its own name."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """The method."""
    merge: MergeConfig = field(default_factory=MergeConfig)
    """The merge."""
    release: ReleaseConfig = field(default_factory=ReleaseConfig, metadata=PLACE)
    """The release."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """The engines."""
    launch: LaunchConfig = field(default_factory=LaunchConfig, metadata=PLACE)
    """Shards and jobs."""
    site: SiteConfig = field(default_factory=SiteConfig, metadata=PLACE)
    """The cluster."""
