"""The messages of the node API (JSON over HTTPS). A node reports facts; the control plane answers with what should be.

Decoding is strict: a message of the wrong shape raises `BadRequest` naming the field.
"""

import re
from typing import Annotated, Literal, TypeVar

import msgspec

from protocol import datasets
from protocol.errors import BadRequest
from protocol.tensors import Signature

HEARTBEAT_SECONDS = 10
JOBS_AT_ONCE = 4  # how many jobs a node runs at a time; it remembers further doorbells
DEVICES_MOST = 256  # of a node
LEASE_SECONDS = 30  # a node not heard for this long is offline, and stops serving by itself


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    pass


M = TypeVar("M", bound=Message)


def decode(body: bytes, kind: type[M]) -> M:
    try:
        return msgspec.json.decode(without_nul(body), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{kind.__name__} is not valid: {error}") from error


def without_nul(json: bytes) -> bytes:
    """With another sign for each NUL in its texts: PostgreSQL takes none, and what a node has to say of itself does not
    hang on what a model has printed."""
    return _NUL.sub(rb"\1\\ufffd", json) if rb"\u0000" in json else json  # every heartbeat comes by here


_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def encode(message: Message) -> bytes:
    return msgspec.json.encode(message)


Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
MOST_STATUS = 2**31 - 1
Status = Annotated[int, msgspec.Meta(ge=0, le=MOST_STATUS)]
Small = Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]
Bytes = Count
DeviceName = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]


class Failure(Message, frozen=True):
    """Why something did not work on the node; `code` is one of `errors`, or `out_of_memory`, `runner_died`,
    `blob_mismatch`, `disk_failed`, `format_unsupported`."""

    code: str
    message: str


class DeviceFacts(Message, frozen=True):
    """One device. A field that no probe could read is None, and `unknown` says why; a field that such a device does not
    have is None without a word."""

    name: DeviceName  # unique on the node: "cpu", "cuda:0", "rocm:0", "opencl:0"
    kind: Literal["cpu", "opencl", "rocm", "cuda"]
    model: str | None
    memory_total_bytes: Bytes | None
    memory_available_bytes: Bytes | None
    memory_is_ram: bool = False  # of the machine, which the device "cpu" counts already
    vendor: str | None = None
    uuid: str | None = None
    driver: str | None = None
    cuda_version: str | None = None  # the newest that the driver can run
    compute_capability: str | None = None
    pci_address: str | None = None  # as Linux writes it: "0000:01:00.0"
    pcie_generation: Small | None = None  # now; many cards go down to 1 while idle
    pcie_lanes: Small | None = None
    pcie_generation_max: Small | None = None
    pcie_lanes_max: Small | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    ecc: bool | None = None
    mig: bool | None = None
    peak_gflops: float | None = None  # in FP32, by its own count of cores and clocks
    peak_memory_bytes_per_second: float | None = None  # by its own bus width and clock
    refusals: dict[str, str] = {}  # format -> why this device cannot run it, although its node can
    unknown: dict[str, str] = {}


class Reading(Message, frozen=True):
    """What changes all the time on a device; None: not read this time."""

    memory_available_bytes: Bytes | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None


class BenchmarkFacts(Message, frozen=True):
    """What one device was measured to do. A figure that is None was not measured, and `unknown` says why."""

    device: str
    method: str  # by which programs, in words; empty where nothing could be measured
    seconds: float
    loaded_models: Small = 0  # that were on the node meanwhile, and may have had a part of the device
    gflops: float | None = None  # FP32
    memory_bytes_per_second: float | None = None  # read and written
    host_to_device_bytes_per_second: float | None = None
    pcie_generation: Small | None = None  # of the link while it was busy
    pcie_lanes: Small | None = None
    unknown: dict[str, str] = {}


class SandboxFacts(Message, frozen=True):
    """How well a node can shut a model in, as its agent found by trying: docs/security.md has the levels."""

    level: Small = 0
    why_not_higher: str = ""


class Benchmarks(Message, frozen=True):
    """POST /api/node/v1/benchmarks, when `DesiredState.benchmark` asked for them."""

    asked: str  # that asking
    devices: list[BenchmarkFacts]


class HardwareFacts(Message, frozen=True):
    hostname: str
    operating_system: str
    architecture: str
    cpu_cores: Small
    disk_total_bytes: Bytes
    disk_free_bytes: Bytes
    agent_version: str
    formats: list[str]  # which model formats this node can run
    devices: Annotated[list[DeviceFacts], msgspec.Meta(max_length=DEVICES_MOST)]
    refusals: dict[str, str] = {}  # format -> why this node cannot run it
    sandbox: SandboxFacts = SandboxFacts()
    unknown: dict[str, str] = {}  # source of facts ("nvml", "opencl", …) -> why it told nothing


class Registration(Message, frozen=True):
    """POST /api/node/v1/register"""

    token: str
    hardware: HardwareFacts
    name: str | None = None
    labels: dict[str, str] = {}


class Registered(Message, frozen=True):
    node_id: str
    name: str
    token: str  # node token, for every later request
    broker_url: str  # Redis, as this node's own user
    queues: list[str]  # Celery queues to listen to: its own, and one per hardware class of its devices


class MemoryPeak(Message, frozen=True):
    """The most memory that a runner has taken since it started, in bytes; None: nothing could tell."""

    host_bytes: Bytes | None = None  # of the machine's, resident; mapped files count
    device_bytes: Bytes | None = None  # of its device's own, where it has some


class ReplicaFacts(Message, frozen=True):
    id: str
    fence: int
    phase: Literal["fetching", "loading", "ready", "failed", "stopping"]
    fetched_bytes: Bytes = 0
    total_bytes: Bytes = 0
    memory_bytes: Bytes | None = None  # of the machine's memory: resident now in the runner
    device_memory_bytes: Bytes | None = None  # of its device's own memory, where it has some
    peak: MemoryPeak = MemoryPeak()
    failure: Failure | None = None


class Held(Message, frozen=True):
    """A job that the node runs (in a heartbeat) or may go on running (in the answer)."""

    id: str
    fence: int
    rows_done: Count = 0  # of a job over a data set
    memory_bytes: Bytes | None = None  # as in ReplicaFacts; in the answer these stay empty
    device_memory_bytes: Bytes | None = None
    peak: MemoryPeak = MemoryPeak()


class Heartbeat(Message, frozen=True):
    """POST /api/node/v1/heartbeat, every HEARTBEAT_SECONDS and whenever something changed."""

    boot_id: Annotated[str, msgspec.Meta(max_length=64)]  # new at every start of the agent
    number: Count = 0  # from 1 on since then: of two that are under way at once, it says which is older; 0: not known
    hardware: HardwareFacts | None = None  # at start, and when it changed
    disk_free_bytes: Bytes | None = None
    readings: dict[str, Reading] = {}  # by device name; of those that changed much, or were not told for a minute
    memory_others_bytes: dict[str, Bytes] = {}  # by device name: taken, and not by runners of this node
    link_up: bool = True  # whether the agent reaches Redis
    replicas: list[ReplicaFacts] = []
    jobs: list[Held] = []
    terminals: list[str] = []  # ids of the sessions that it holds
    stopping: bool = False  # the agent's last: it has ended all it ran and goes


class File(Message, frozen=True):
    """One file of a model version, or a job's inputs; fetched from GET /api/node/v1/blobs/<sha256>."""

    path: str  # relative, inside the model's folder
    sha256: str
    size_bytes: int


class ReplicaSpec(Message, frozen=True):
    """One replica the node should hold loaded."""

    id: str
    fence: int
    deployment: str  # name, for logs and people
    format: str
    files: list[File]
    device: str
    memory_bytes: int  # what was allocated
    ram_bytes: int = 0  # and of the machine's RAM, where the device has memory of its own
    options: dict[str, object] = {}
    signature: Signature = Signature()
    timeout_seconds: float = 30.0  # how long callers wait for an answer


class DesiredState(Message, frozen=True):
    """The answer to a heartbeat. What is not listed should not run."""

    replicas: list[ReplicaSpec] = []
    jobs: list[Held] = []
    terminals: list[str] = []  # sessions that may go on; of those it does not hold, the node asks to accept each
    queues: list[str] = []
    token: str | None = None  # a fresh node token: use it from now on
    send_hardware: bool = False
    benchmark: str = ""  # if set: measure all devices and send Benchmarks that name this asking, once
    lease_seconds: int = LEASE_SECONDS


class OverRows(Message, frozen=True):
    """That a job runs over a data set, and how."""

    format: datasets.Format
    rows: int
    outputs: list[str]  # empty: all
    chunk_rows: int
    result_format: datasets.ResultFormat


class JobSpec(Message, frozen=True):
    """The answer to POST /api/node/v1/jobs/<id>/accept."""

    id: str
    fence: int
    model: str
    format: str
    files: list[File]
    device: str
    memory_bytes: int
    timeout_seconds: int
    inputs: File  # an Open Inference Protocol request in its binary form (see `oip`), or a data set
    inputs_header_bytes: int  # Inference-Header-Content-Length of that request
    over_rows: OverRows | None = None
    ram_bytes: int = 0  # as in ReplicaSpec
    options: dict[str, object] = {}
    signature: Signature = Signature()
    tenant: str = ""  # a loaded model never passes from one tenant's job to another's


class JobFailure(Message, frozen=True):
    """POST /api/node/v1/jobs/<id>/failure"""

    fence: int
    failure: Failure
    peak: MemoryPeak = MemoryPeak()


class TerminalSpec(Message, frozen=True):
    """The answer to POST /api/node/v1/terminals/<id>/accept."""

    id: str
    cols: int
    rows: int
    keep_seconds: int  # how long the shell lives on without a client


class TerminalEnded(Message, frozen=True):
    """POST /api/node/v1/terminals/<id>/ended"""

    code: Status | None = None  # exit code of the shell; 128 + n where signal n ended it
    reason: str = ""  # where the end had another cause
    output_bytes: Bytes = 0
    input_bytes: Bytes = 0  # that the shell took
    resizes: Count = 0  # that it was told of
