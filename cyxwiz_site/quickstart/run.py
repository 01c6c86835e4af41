"""The course of a quickstart: refuse or start, show, stay, end."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import httpx2
import msgspec

from cyxwiz_site.quickstart import demo, local_nodes, ports, redis, ssh
from cyxwiz_site.quickstart.home import Credentials, Home, Refused, State
from cyxwiz_site.quickstart.processes import ChildEnded, Processes, python
from cyxwiz_site.quickstart.screen import say, step
from protocol import names, terminal

READY_SECONDS = 60.0
POLL_SECONDS = 0.05
# The processes that wait for work; on two cores more threads would only wait for each other.
CONTROL_THREADS = "4"


@dataclass(frozen=True)
class Options:
    home: Path
    port: int
    ssh_port: int
    nodes: int
    demo: bool
    stay: bool


class Ended(BaseException):
    """Somebody wants us to end: Ctrl-C, SIGTERM, or a closed terminal."""


def run(options: Options) -> int:
    home = Home(options.home.expanduser().resolve())
    _refuse_nonsense(options)
    with home.held():
        if not ports.is_free(options.port):
            raise Refused(f"Port {options.port} is taken by another program. Choose another with --port.")
        if options.ssh_port and not ports.is_free(options.ssh_port):
            raise Refused(f"Port {options.ssh_port} is taken by another program. Choose another with --ssh-port.")
        processes = Processes(home.logs)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _end)
        code = 0
        try:
            state = start(options, home, processes)
            if options.demo:
                demo.run(state, processes)
            demo.show_addresses(state, home.ssh if options.nodes else None, with_model=options.demo)
            if options.stay:
                say("Ctrl-C ends it all.")
            while options.stay:
                processes.check()
                time.sleep(POLL_SECONDS)
        except Ended:
            say()
        except (ChildEnded, Refused, demo.Failed) as error:
            say(f"\n{_cause(error, processes)}")
            code = 1
        finally:
            # From here on we end anyway; a second Ctrl-C must not leave half of it running.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            home.state_file.unlink(missing_ok=True)
            if processes.children:
                with step("Every process ended"):
                    processes.end()
        return code


def start(options: Options, home: Home, processes: Processes) -> State:
    """Starts everything; when this returns the system is ready and HOME/quickstart.json says where it is."""
    url = f"http://127.0.0.1:{options.port}"
    say(f"CyxWiz at {url}, its data in {home.path}")
    env = _environment(home, options.ssh_port or ports.free())
    with step("Redis"):
        if "REDIS_URL" in env:
            redis.wait_for(env["REDIS_URL"], processes)
        else:
            env["REDIS_URL"] = redis.start(processes, home, env)
            env["NODE_REDIS_URL"] = env["REDIS_URL"]
    with step("Database"):
        processes.run("migrate", python("manage.py", "migrate", "--no-input", "-v", "0"), env)
    with step("Admin and API key"):
        credentials, known_password = _ensure_admin(home, processes, env)
    flower_url = f"http://127.0.0.1:{ports.free()}"
    with step("Web, gateways, control worker, beat"):
        _start_control_plane(options, home, processes, env)
        _start_flower(flower_url, processes, env)
        with httpx2.Client(base_url=url, timeout=5) as client:
            _wait_for(client, "/readyz", processes)
    ssh_port = int(env["SSH_GATEWAY_PORT"])
    assert credentials.api_key
    as_admin = {"Authorization": f"Bearer {credentials.api_key}"}
    with httpx2.Client(base_url=url, headers=as_admin, timeout=10) as api:
        with step(f"Nodes: {options.nodes}"):
            local_nodes.start(options.nodes, url, env["REDIS_URL"], api, home, processes)
        with step("Terminals by ssh"):
            ssh.prepare(home, api, credentials.admin_user, ssh_port, local_nodes.names(options.nodes), processes)
    with step("Flower"), httpx2.Client(base_url=flower_url, timeout=5) as client:
        _wait_for(client, "/healthcheck", processes)
    state = State(
        url=url,
        api_key=credentials.api_key,
        admin_user=credentials.admin_user,
        admin_password=credentials.admin_password if known_password else None,
        redis_url=env["REDIS_URL"],
        ssh_port=ssh_port,
        flower_url=flower_url,
        pids={"quickstart": os.getpid(), **processes.pids},
    )
    home.publish(state)
    return state


def _refuse_nonsense(options: Options) -> None:
    if not 0 < options.port < 65536:
        raise Refused(f"--port must be 1 to 65535, not {options.port}.")
    if not 0 <= options.ssh_port < 65536:
        raise Refused(f"--ssh-port must be 1 to 65535, or 0 for any, not {options.ssh_port}.")
    if options.nodes < 0:
        raise Refused(f"--nodes must not be negative: {options.nodes}.")
    if options.demo and options.nodes == 0:
        raise Refused("The demonstration needs a node: give --nodes 1, or --no-demo.")
    if "REDIS_URL" not in os.environ:
        redis.program()


def _environment(home: Home, ssh_port: int) -> dict[str, str]:
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "cyxwiz_site.settings",
        "CYXWIZ_HOME": str(home.path),
        "SSH_GATEWAY_ADDRESS": "127.0.0.1",
        "SSH_GATEWAY_PORT": str(ssh_port),
        "PYTHONUNBUFFERED": "1",
    }
    if "SECRET_KEY" not in env and "SECRET_KEY_FILE" not in env:
        env["SECRET_KEY"] = home.secret_key()
    return env


class _Admin(msgspec.Struct):
    """What `ensure_admin` answers."""

    api_key: str
    password_is_known: bool


def _ensure_admin(home: Home, processes: Processes, env: dict[str, str]) -> tuple[Credentials, bool]:
    credentials = home.credentials()
    home.keep_credentials(credentials)  # before they are used: a crash in between must not lose the password
    command = python("manage.py", "ensure_admin")
    # By standard input: a command line is read by everybody on this machine.
    answer = msgspec.json.decode(
        processes.run("ensure_admin", command, env, given=msgspec.json.encode(credentials)), type=_Admin
    )
    if answer.api_key != credentials.api_key:
        credentials = msgspec.structs.replace(credentials, api_key=answer.api_key)
        home.keep_credentials(credentials)
    return credentials, answer.password_is_known


def _start_control_plane(options: Options, home: Home, processes: Processes, env: dict[str, str]) -> None:
    web = ["--host", "127.0.0.1", "--port", str(options.port), "--loop", "uvloop"]
    web += [
        "--http",
        "cyxwiz_site.http_protocol:OneWrite",
        "--ws",
        "cyxwiz_site.websocket_protocol:Paced",
        "--no-access-log",
        "--no-server-header",
        "--ws-max-size",
        str(terminal.FRAME_MOST_BYTES),
        "--ws-per-message-deflate",
        "false",
        "--timeout-graceful-shutdown",
        "3",
    ]
    processes.start("web", python("-m", "uvicorn", "cyxwiz_site.asgi:application", *web), env, last=1)
    celery = python("-m", "celery", "-A", "cyxwiz_site")
    worker = ["--pool", "threads", "--concurrency", CONTROL_THREADS, "--queues", names.CONTROL_QUEUE]
    worker += ["--hostname", "control@quickstart", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    processes.start("worker", [*celery, "worker", *worker], env)
    processes.start("recorder", python("manage.py", "record_terminals"), env)
    processes.start("ssh", python("manage.py", "ssh_gateway"), env)
    # A process of its own: embedded in the worker it would be a child of that, and outlive it when it is killed.
    schedule = str(home.path / "beat-schedule")
    processes.start("beat", [*celery, "beat", "--schedule", schedule, "--loglevel", "INFO"], env)


def _start_flower(url: str, processes: Processes, env: dict[str, str]) -> None:
    command = python("-m", "celery", "-A", "cyxwiz_site", "flower", "--address=127.0.0.1")
    port = url.rpartition(":")[2]
    # enable_events asks workers over remote control to send events; our workers have none, and nodes must not.
    command += [f"--port={port}", "--read_only=True", "--enable_events=False"]
    processes.start("flower", command, env)


def _wait_for(client: httpx2.Client, path: str, processes: Processes) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while True:
        processes.check()
        try:
            if client.get(path).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        if time.monotonic() > give_up:
            raise Refused(f"{client.base_url}{path} was not ready in {READY_SECONDS:.0f} s. See the logs.")
        time.sleep(POLL_SECONDS)


def _cause(error: Exception, processes: Processes) -> Exception:
    """A request that failed because a process died is told as that."""
    try:
        processes.check()
    except ChildEnded as ended:
        return ended
    return error


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended
