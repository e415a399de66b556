"""The configuration: dataclasses with a docstring per field, its bounds beside its default.

A run is described by one `RunConfig`. `gra_hpc.config.presets` composes it from YAML files and `key=value` overrides;
`rules.check` refuses impossible values. `unfrozen` fields say where and how work runs: they may change between two
attempts of one shard and are not part of the run's fingerprint. Every other is frozen when the run is planned.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from gra_hpc.config.endpoint import EndpointConfig
from gra_hpc.config.fields import MISSING, Most, setting, unfrozen
from gra_hpc.config.site import SiteConfig
from gra_hpc.thoughts import Thoughts

ROLES = ("generator", "reviewer", "adjudicator")

DTYPES = ("auto", "bfloat16", "float16", "half", "float32", "float")
"""What vLLM takes as `--dtype`. Its load formats grow by plug-ins: they are its own to check."""


class Policy(Enum):
    """How roles are given to the committee."""

    random = "random"
    fixed = "fixed"
    single = "single"
    performance = "performance"

    @property
    def drawn(self) -> bool:
        """Whether each sample's roles are drawn among all members."""
        return self in (Policy.random, Policy.performance)


class Settle(Enum):
    """Who settles a sample on which the Reviewers disagree."""

    adjudicator = "adjudicator"
    majority = "majority"


class ReviewOrder(Enum):
    """How the Reviewers of a sample are asked."""

    together = "together"
    bounded = "bounded"


class SelfReview(Enum):
    """Whether a model may judge what it has written, in whatever seats."""

    allow = "allow"
    avoid = "avoid"


class SystemRole(Enum):
    """Whether a model's chat template takes a system message."""

    auto = "auto"
    yes = "yes"
    no = "no"


EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
"""Levels of thinking that chat templates have; each has some of them."""


class Thinks(Enum):
    """Whether a model thinks before it answers."""

    auto = "auto"
    on = "on"
    off = "off"


class EngineKind(Enum):
    """What hosts the models."""

    vllm = "vllm"
    simulated = "simulated"


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

    temperature: float | None = setting(None, ge=0, le=2)
    """0 is greedy; the paper uses 0.2."""
    top_p: float | None = setting(None, gt=0, le=1)
    """Nucleus sampling; the paper uses 0.9."""
    max_tokens: int | None = setting(None, ge=1, le=Most.TOKENS)
    """Longest answer, in tokens; the paper uses 4096."""
    repetition_penalty: float | None = setting(None, gt=0, le=2)
    """1.0 is off. Very small models need a little (1.1) not to repeat themselves."""
    thinking_tokens: int | None = setting(None, ge=1, le=Most.TOKENS)
    """Longest thoughts of a model that thinks, in tokens, beside max_tokens, which bounds its answer."""
    top_k: int | None = setting(None, ge=0, le=1_000_000)
    """Sample among so many likeliest tokens alone; 0: among all. Some models' authors advise 20 or 64."""


@dataclass
class ModelConfig:
    """One model, and how its engine is started."""

    path: str = ""
    """Hub id (`org/name`) or a local directory with config.json and safetensors; needed but with an endpoint."""
    endpoint: EndpointConfig = unfrozen(EndpointConfig)
    """A server of your own that answers for the model, in the place of engines of ours."""
    revision: str = ""
    """Hub commit to use. Empty: the one in the local cache, pinned when the run is planned."""
    licence: str = ""
    """Licence of the weights, printed in the dataset card."""
    dtype: str = setting("auto", choices=DTYPES)
    """vLLM's dtype: auto, bfloat16, float16, float32."""
    quantization: str = ""
    """vLLM's quantization method (awq, gptq, fp8, ...). Empty: as the model's own config says."""
    max_model_len: int = setting(8192, ge=256, le=Most.TOKENS)
    """Context length in tokens, prompt and answer together."""
    chat_template: str = ""
    """A Jinja file to use instead of the model's own chat template (needed for base models)."""
    system_role: SystemRole = SystemRole.auto
    """Whether the chat template takes a system message; otherwise it is put before the first user message."""
    thinking: Thinks = Thinks.auto
    """Whether the model thinks before it answers. auto: as its chat template does (decided when the run is planned)."""
    effort: str | None = setting(None, choices=EFFORTS)
    """How much it thinks, where its chat template has levels for it (`reasoning_effort`). Left out: its default."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless named here, per model."""
    tensor_parallel: int = unfrozen(0, ge=0, le=Most.DEVICES)
    """Devices per replica. 0: placement decides."""
    replicas: int = unfrozen(0, ge=0, le=Most.DEVICES)
    """Engines for this model on one node. 0: placement decides."""
    kv_cache_gb: float = unfrozen(0.0, ge=0, le=Most.GB)
    """Memory for the KV cache of one replica, in GB. 0: placement decides. On a CPU, about 0.5."""
    load_format: str = "auto"
    """vLLM's load_format; `dummy` gives random weights, for tests of machinery."""
    engine_args: dict[str, Any] = unfrozen({})
    """More arguments of vLLM's server, as `name: value`; those that other settings or placement own are refused. Frozen
    but for those of a named list (`gra_hpc/config/engine_args.py`) that say where and how an engine runs."""


@dataclass
class MemberConfig:
    """One seat of the committee: a model, possibly with a persona and sampling of its own."""

    model: str = MISSING
    """Name of an entry in `models`."""
    persona: str = ""
    """One or two sentences put at the end of this member's instructions."""
    sampling: SamplingConfig = setting(SamplingConfig)
    """Overrides of the role's sampling for this member."""


@dataclass
class FixedRolesConfig:
    """Members by role, for `method.policy=fixed` (and the one member of `single`, as generator)."""

    generator: str = ""
    """Committee member that generates. Also the one member of `policy=single`; empty: the first."""
    reviewers: list[str] = setting([])
    """Committee members that review."""
    adjudicator: str = ""
    """Committee member that adjudicates."""


@dataclass
class MethodConfig:
    """The GRA method (arXiv 2504.12322) and its ablations."""

    flow: str = "synthesize"
    """synthesize: new instructions; refine: rewrite the seeds' responses (GRA-Refine); seeds: the seeds as they are,
    nobody is asked (the baseline)."""
    policy: Policy = Policy.random
    """random: roles drawn per sample; fixed: `method.fixed`; single: one member in all roles; performance: drawn per
    sample by what the rounds before have shown of each member, the first round at random."""
    explore: float = setting(0.1, ge=0, le=1)
    """policy=performance: share of the draws that is even, whatever was shown."""
    fixed: FixedRolesConfig = setting(FixedRolesConfig)
    """The members by role for `policy=fixed`."""
    reviewers: int = setting(3, ge=1, le=16)
    """Reviewers per sample; fewer where the committee is too small."""
    samples_per_seed: int = setting(1, ge=1, le=10_000)
    """Candidates anchored on each seed, per round; not read with target_accepted."""
    rounds: int = setting(1, ge=1, le=99)
    """Rounds; each draws examples from the seeds and all samples accepted so far. The paper runs 5."""
    target_accepted: int = setting(0, ge=0, le=Most.COUNT)
    """Rows wanted of each round, not of all together: with 2 rounds, 500 give 1000. The best are kept. The acceptance
    measured so far says how many candidates a round has; samples_per_seed is not read. 0: off."""
    expected_acceptance: float = setting(0.3, gt=0, le=1)
    """Share of candidates expected to be accepted, until a round has measured it."""
    examples_min: int = setting(2, ge=1, le=16)
    """Fewest examples shown to the Generator."""
    examples_max: int = setting(4, ge=1, le=16)
    """Most examples shown to the Generator."""
    keywords: int = setting(3, ge=1, le=10)
    """Keywords per record."""
    summary_words: int = setting(30, ge=3, le=1000)
    """Longest summary, in words."""
    review_instruction: bool = True
    """Ask the Reviewers about the instruction first; one zero rejects the sample before its response is paid for."""
    review_response: bool = True
    """Ask the Reviewers about the response. Off: every parsed response is accepted (ablation)."""
    review_order: ReviewOrder = ReviewOrder.together
    """together: all Reviewers at once; bounded: one after another, until the decision is certain (the first zero of an
    instruction; a mean that the others cannot lift to accept_mean). The decisions are the same, with fewer calls."""
    self_review: SelfReview = SelfReview.allow
    """avoid (policy=random): no seat of the Generator's model reviews or adjudicates, where the committee has another
    model; a sample then has fewer Reviewers if need be. allow: the Generator's seat alone is kept from judging."""
    accept_mean: float = setting(8.0, ge=1, le=10)
    """Reject when the mean over Reviewers is below this."""
    accept_sd: float = setting(1.5, ge=0, le=10)
    """Above this population standard deviation over Reviewers, the sample is settled by `method.settle`."""
    settle: Settle = Settle.adjudicator
    """adjudicator: the paper's; majority: accepted when most Reviewers score it at least accept_mean (ablation)."""
    adjudicate_mean: float = setting(8.0, ge=1, le=10)
    """Keep an adjudicated sample when the mean of the Adjudicator's scores is at least this."""
    max_tries: int = setting(3, ge=1, le=20)
    """Times a question is asked when its answer is cut off or cannot be parsed; then the sample has failed."""
    sampling: SamplingConfig = setting(lambda: SamplingConfig(0.2, 0.9, 4096, 1.0, 2048))
    """Sampling of all roles."""
    role_sampling: dict[str, SamplingConfig] = setting({}, choices=ROLES)
    """Overrides by role: generator, reviewer, adjudicator."""
    verdict_tokens: int = setting(512, ge=16, le=Most.TOKENS)
    """Longest review or verdict, in tokens: their JSON is short, and a bound keeps a runaway cheap."""
    language: str = "auto"
    """Language that is asked for. auto: each seed's own, where it is not English; any: none; else the English name of
    one (German), for all; `other: NAME` for one that is not on the list of 176 that can be told."""
    domains: dict[str, str] = setting({})
    """Domains of your own, as `name: what it is in one line`, in place of the paper's seven."""
    criteria: dict[str, str] = setting({})
    """What Reviewers score responses by, 2 to 12 criteria as `name: what is right in one line`, in place of the paper's
    six; one of the paper's without words keeps the paper's words."""
    instruction_criteria: dict[str, str] = setting({})
    """What Reviewers answer with 0 or 1 of instructions, 1 to 12 criteria, in place of the paper's three; likewise."""
    gold: str = ""
    """File of records with a known verdict (instruction, response, verdict: keep or reject), put to the Reviewers among
    their work: how often each is right goes into standings and report. They are never released."""
    gold_rate: float = setting(0.02, gt=0, le=0.25)
    """With `gold`: share of the candidates beside which their Reviewers are asked one of its records."""
    prompts: str = ""
    """Directory of templates of your own (`response.j2`, ...), each in place of the one of its name; the plan keeps
    them. A relative path starts at the working directory."""
    seed: int = 0
    """Drawn roles, examples and sampling seeds derive from this."""


@dataclass
class SeedsConfig:
    """The seed dataset and the rules for its records."""

    path: str = setting(MISSING, needed="a file or a Hub dataset id")
    """File or directory (jsonl, json, csv, tsv, parquet; text also compressed), or a Hub dataset id. Relative paths
    start at the working directory, then at `configs/`."""
    name: str = ""
    """Configuration name of a Hub dataset."""
    split: str = "train"
    """Split of a Hub dataset, of a JSON file with a list for each, or of a directory of files named after splits."""
    revision: str = ""
    """Commit of a Hub dataset."""
    licence: str = ""
    """Licence of the seeds, printed in the dataset card."""
    fields: dict[str, str] = setting({})
    """Field map `instruction|input|response|messages|system|history|tools|rejected|media|thoughts|domain|keywords|
    summary: source field` for other layouts; with an empty one no field is read for it."""
    limit: int = setting(0, ge=0, le=Most.COUNT)
    """Use the first N accepted records. 0: all."""
    max_chars: int = setting(20000, ge=1, le=Most.COUNT)
    """Longer instructions, responses or contexts are rejected."""
    duplicates: str = setting("reject", choices=("reject", "keep"))
    """reject: the second record with the same text, by the merge's rule, is rejected; keep: it is a seed of its own
    (its id counts it)."""


@dataclass
class DecontaminationConfig:
    """Removal of rows that overlap with benchmarks."""

    sources: list[str] = setting([])
    """Benchmark files (jsonl, json, csv, tsv, txt, also compressed; parquet, arrow), directories or Hub dataset ids."""
    ngram: int = setting(13, ge=3, le=1000)
    """Rows that share a run of this many words with a benchmark are removed; shorter texts match an instruction as a
    whole."""


@dataclass
class MergeConfig:
    """What the merge does with the accepted samples."""

    exact: bool = True
    """Drop rows whose instruction and response are the same but for case, spacing and the punctuation of sentences;
    code counts to the letter."""
    fuzzy: bool = True
    """Drop near-duplicates (MinHash-LSH, verified)."""
    fuzzy_threshold: float = setting(0.8, gt=0, le=1)
    """Jaccard similarity of word shingles from which two rows are near-duplicates."""
    shingle: int = setting(5, ge=1, le=1000)
    """Words per shingle."""
    permutations: int = setting(128, choices=(32, 64, 128, 256))
    """MinHash permutations."""
    semantic: bool = True
    """The paper's greedy rule: best score first, kept if its cosine to all kept so far stays below the threshold."""
    semantic_threshold: float = setting(0.9, gt=0, le=1.01)
    """Cosine similarity from which the worse row is dropped; the paper uses 0.9."""
    embed_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Sentence embedding model: Hub id or local directory; empty: no semantic step."""
    exact_search_rows: int = setting(200_000, ge=0, le=Most.COUNT)
    """Up to this many rows the semantic step compares all pairs; above, each row with the clusters nearest to it, which
    can miss some: so it is frozen."""
    decontamination: DecontaminationConfig = setting(DecontaminationConfig)
    """Removal of rows that overlap with benchmarks."""
    allow_partial: bool = unfrozen(False)
    """Make a release from the published shards even if some are missing; its card declares the coverage."""
    memory_gb: float = unfrozen(6.0, ge=0.5, le=Most.GB)
    """Memory the merge may use, in GB."""


@dataclass
class DiagnosticsConfig:
    """What the report says of the data without training on them."""

    rows: int = setting(2000, ge=0, le=20_000)
    """Rows that are measured, drawn by a digest of their ids. 0: no diagnostics."""
    picture_rows: int = setting(750, ge=0, le=20_000)
    """Rows, and as many seeds, in the pictures."""
    scorer: str = ""
    """Small causal language model (Hub id or directory) that measures instruction-following difficulty; empty: not
    measured."""
    scorer_rows: int = setting(500, ge=0, le=20_000)
    """Rows, and as many seeds, that the scorer reads."""


@dataclass
class ReleaseConfig:
    """The release dataset."""

    name: str = ""
    """Title in the dataset card. Empty: the run's name."""
    licence: str = "other"
    """Licence of the released data, for the dataset card."""
    validation: float = setting(0.02, ge=0, lt=1)
    """Share of seeds whose samples form the validation split (no seed is in both, nor any text)."""
    shard_mb: int = setting(256, ge=1, le=1_000_000)
    """Size of one Parquet file, in MB."""
    formats: list[str] = setting([], choices=("alpaca", "sharegpt", "chat"))
    """Exports beside Parquet: alpaca, sharegpt, chat."""
    thoughts: Thoughts = Thoughts.drop
    """What the models thought before the responses. drop: not released; column: in a column `thoughts`; inline: that,
    and in `<think>` marks before the response in `messages` and exports."""
    diagnostics: DiagnosticsConfig = setting(DiagnosticsConfig)
    """Diversity, coverage and overlap of the rows, for the report."""


@dataclass
class EngineConfig:
    """How engines are started, watched and fed."""

    kind: EngineKind = EngineKind.vllm
    """vllm, or simulated (made-up answers: for planning and tests of scale; the card says so)."""
    start_timeout_s: int = unfrozen(900, ge=1, le=Most.SECONDS)
    """Longest time from an engine's start to its first answered health check."""
    call_timeout_s: int = unfrozen(600, ge=1, le=Most.SECONDS)
    """An engine that has calls but gives no token for this long counts as hung and is restarted."""
    max_restarts: int = unfrozen(3, ge=0, le=1000)
    """Restarts of one engine without an answered call between them; then the attempt fails with the end of its log."""
    max_running: int = unfrozen(256, ge=1, le=100_000)
    """Calls in flight per replica (vLLM's max_num_seqs)."""
    residency: Residency = unfrozen(Residency.auto)
    """together: all engines awake; turns: they take turns on the devices; auto: placement decides."""
    host_embedder: bool = unfrozen(False)
    """Host the sentence embedding model as an engine beside the others (vLLM pooling), placed with them on the node's
    devices: accepted samples are embedded as they come. Off: sentence-transformers does it at a shard's end, when the
    engines have left the devices. Not run on a GPU."""
    python: str = unfrozen("")
    """Python of the engines' environment. Empty: the one that runs the shard."""
    env: dict[str, str] = unfrozen({})
    """Environment variables for the engines."""
    own_network: OwnNetwork = unfrozen(OwnNetwork.auto)
    """Give each engine a network namespace of its own, so that nobody else on the node reaches its internal TCP ports:
    where the kernel allows it. auto: an engine on GPUs that does not start in one is started without."""
    simulated_latency_s: float = unfrozen(0.0, ge=0, le=Most.SECONDS)
    """Simulated engine: seconds a call takes."""
    simulated_failures: float = setting(0.0, ge=0, le=1)
    """Simulated engine: share of answers that are cut off, to exercise retries."""
    simulated_truth: str = setting("")
    """Simulated engine: regular expression that finds the right answer in a prompt: its group `truth`, or the first."""
    simulated_skill: dict[str, Any] = setting({})
    """Simulated engine: how often each member is right, as `member: {question: {truth: share}}`; `*` stands for all
    (`gra_hpc/engines/planted.py`)."""


@dataclass
class LaunchConfig:
    """How the run is cut into shards and jobs."""

    shards: int = unfrozen(0, ge=0, le=Most.TASKS)
    """Shards per round; fixed once the run is planned. 0: from seeds_per_shard."""
    seeds_per_shard: int = unfrozen(500, ge=1, le=Most.COUNT)
    """Seeds per shard, when shards is 0."""
    window: int = unfrozen(256, ge=1, le=1_000_000)
    """Samples in flight per shard."""
    workers: int = unfrozen(0, ge=0, le=Most.TASKS)
    """Workers of a round, one array task each; never more than there are shards, or than `launch.parallel` lets run at
    once. 0: as many as leave each so much work that the start of its engines is under a twentieth of its time."""
    parallel: int = unfrozen(0, ge=0, le=Most.TASKS)
    """Workers that run at once. 0: no limit (local executor: one)."""
    inline_merge_rows: int = unfrozen(100_000, ge=0, le=Most.COUNT)
    """A round of so many candidates at most, and round 0, is merged by a worker beside its engines, and the workers go
    on with the next one: no other job is between. 0: none is; nor where `merge.allow_partial` is on."""
    stop_at_target: bool = unfrozen(False)
    """Begin no more shards of a round once the published ones are expected to meet `method.target_accepted`. Fewer rows
    are then made to choose the best of, and which shards those are depends on how the run went."""
    linger_s: float = unfrozen(60.0, ge=0, le=3600)
    """Longest time that workers with nothing to do wait for that, in seconds. Where a shard takes longer, and there are
    several workers, the rounds are jobs of their own."""
    journal_fsync_s: float = unfrozen(5.0, ge=0, le=3600)
    """Journal: longest time an answer is not yet on the disk, in seconds (a power loss costs it; a kill does not)."""
    journal_fsync_calls: int = unfrozen(256, ge=1, le=1_000_000)
    """Journal: at most this many answers are not yet on the disk."""
    heartbeat_s: float = unfrozen(10.0, ge=0.1, le=60)
    """Seconds between two heartbeats of a shard."""


@dataclass
class RunConfig:
    """Everything about one run."""

    seeds: SeedsConfig = setting(SeedsConfig)
    """The seed dataset."""
    models: dict[str, ModelConfig] = setting({})
    """The models, by name; those without a seat on the committee are left out."""
    committee: dict[str, MemberConfig] = setting({})
    """The committee's members, by name. Empty: every model is a member under its own name."""
    method: MethodConfig = setting(MethodConfig)
    """The method."""
    merge: MergeConfig = setting(MergeConfig)
    """The merge."""
    release: ReleaseConfig = unfrozen(ReleaseConfig)
    """The release."""
    engine: EngineConfig = setting(EngineConfig)
    """The engines."""
    launch: LaunchConfig = unfrozen(LaunchConfig)
    """Shards and jobs."""
    site: SiteConfig = unfrozen(SiteConfig)
    """The cluster."""
