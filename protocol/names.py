"""Names that both sides must agree on: Celery tasks and queues, Redis keys."""

# Tasks a node understands. Each is a doorbell: it carries an id, never a payload.
SYNC_NODE = "cyxwiz.node.sync"  # "your desired state changed": the node sends a heartbeat now
JOB_WAITS = "cyxwiz.node.job_waits"  # "job <id> waits in your hardware class": the node asks to accept it
TERMINAL_WAITS = "cyxwiz.node.terminal_waits"  # "somebody wants terminal <session id>": the node asks to accept it
NODE_TASKS = (SYNC_NODE, JOB_WAITS, TERMINAL_WAITS)

CONTROL_QUEUE = "cyx.control"

# What gateways know of keys and deployments: one hash each, and a channel that names the field which changed.
ROUTES = "cyx:routes"  # deployment id -> routes.Route as JSON
KEYS = "cyx:keys"  # SHA-256 digest of an API key -> routes.Key as JSON
CHANGES = "cyx:changes"  # pub/sub: "<hash key> <field>"

TERMINAL_RIGHTS = "cyx:tty:rights"  # pub/sub: id of a user whose right to terminals may have changed
TERMINAL_RECORDER = "cyx:tty:recorder"  # there while a recorder runs


def node_queue(node_id: str) -> str:
    return f"cyx.node.{node_id}"


def class_queue(hardware_class: str) -> str:
    return f"cyx.class.{hardware_class}"


def node_inbox(node_id: str) -> str:
    """Redis list of frames that a node is to pop (see `frames`)."""
    return f"cyx:n:{node_id}:in"


def gateway_inbox(gateway_id: str) -> str:
    """Redis list of reply frames that one gateway process is to pop. `gateway_id` is 32 hex digits."""
    return f"cyx:gw:{gateway_id}"


def replica_log(node_id: str, replica_id: str) -> str:
    """Redis stream of a runner's log lines: fields `line`, `fence`, `source` (stdout|stderr|agent)."""
    return f"cyx:n:{node_id}:log:{replica_id}"


def terminal_refusals(user_id: int) -> str:
    """What a user was refused in this minute, as digests."""
    return f"cyx:tty:refused:{user_id}"


def terminal_refusals_left_out(user_id: int) -> str:
    """How often since the last of it that is in the audit."""
    return f"cyx:tty:refused:{user_id}:left_out"


def terminal_input(node_id: str, session_id: str) -> str:
    """Redis list of frames for one terminal session (see `terminal`). Below the node's prefix, as all its keys are."""
    return f"cyx:n:{node_id}:tty:{session_id}:in"


def terminal_output(node_id: str, session_id: str) -> str:
    """Redis stream of frames from one terminal session, in the field `f`."""
    return f"cyx:n:{node_id}:tty:{session_id}"


def request_counts(deployment_id: str, minute: int) -> str:
    """Redis hash of one minute (Unix time // 60) of a deployment's requests (see `histogram`)."""
    return f"cyx:m:{deployment_id}:{minute}"
