"""`cyxwiz jobs …`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cyxwiz.cli.exit_codes import ExitCode
from cyxwiz.cli.output import age, clock, emit, note, say, table
from cyxwiz.cli.predict import show as show_prediction
from cyxwiz.cli.session import Inputs, Json, Options, Outputs, Timeout, connect, model_and_version, options

if TYPE_CHECKING:
    from cyxwiz.client import Client
    from cyxwiz.jobs import Job

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run a model once over some inputs.")
Id = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Id of the job.")]
Limit = Annotated[int, typer.Option("-n", min=1, help="How many, the newest first.")]


@app.command()
def run(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", show_default=False)],
    input: Inputs,
    hardware_class: Annotated[
        str | None, typer.Option(metavar="CLASS", show_default=False, help="On such a device: cpu, cuda-24g, …")
    ] = None,
    output: Outputs = None,
    option: Options = None,
    run_timeout: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", show_default=False, help="It fails if it runs longer.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    timeout: Timeout = 600.0,
    json: Json = False,
) -> None:
    """Submit a job.

    Example: cyxwiz jobs run digits --input image=@images.npy --wait
    """
    from cyxwiz.cli.inputs import read_inputs

    name, version = model_and_version(model)
    inputs, given = read_inputs(input), options(option or [])
    with connect(context) as client:
        job = client.jobs.submit(
            name,
            inputs,
            version=version,
            hardware_class=hardware_class,
            outputs=output or (),
            options=given,
            timeout_seconds=run_timeout,
        )
        if wait:
            _wait(client, job, timeout=timeout, json=json)
        elif json:
            emit(job.raw)
        else:
            say(f"Job {job.id} is {job.state}. Its result: cyxwiz jobs result {job.id} --wait")


@app.command("ls")
def list_jobs(context: typer.Context, limit: Limit = 50, json: Json = False) -> None:
    """List your jobs.

    Example: cyxwiz jobs ls -n 10
    """
    from itertools import islice

    with connect(context) as client:
        jobs = list(islice(client.jobs.list(), limit))
    if json:
        emit([job.raw for job in jobs])
        return
    rows = [(j.id, _model(j), j.state, j.hardware_class, j.node, age(j.created_at), j.reason) for j in jobs]
    table(("ID", "MODEL", "STATE", "CLASS", "NODE", "AGE", "REASON"), rows)


@app.command("show")
def show_job(context: typer.Context, id: Id, json: Json = False) -> None:
    """Show one job.

    Example: cyxwiz jobs show 0b6e…
    """
    with connect(context) as client:
        job = client.jobs.get(id)
    if json:
        emit(job.raw)
    else:
        _describe(job)


@app.command()
def result(
    context: typer.Context,
    id: Id,
    wait: Annotated[bool, typer.Option("--wait", help="If it is not there yet, wait for it.")] = False,
    timeout: Timeout = 600.0,
    json: Json = False,
) -> None:
    """Print the result of a job that succeeded.

    Example: cyxwiz jobs result 0b6e… --json
    """
    with connect(context) as client:
        if wait:
            client.jobs.wait(id, timeout=timeout)
        prediction = client.jobs.result(id)
    if json:
        emit(prediction.as_json())
    else:
        show_prediction(prediction)


@app.command()
def cancel(context: typer.Context, id: Id, json: Json = False) -> None:
    """Cancel a job that is not finished.

    Example: cyxwiz jobs cancel 0b6e…
    """
    with connect(context) as client:
        job = client.jobs.cancel(id)
    if json:
        emit(job.raw)
    else:
        say(f"Job {job.id} is {job.state}.")


def _wait(client: Client, job: Job, *, timeout: float, json: bool) -> None:
    from cyxwiz.cli.progress import status
    from cyxwiz.errors import CyxwizError

    last = job

    def see(now: Job) -> None:
        nonlocal last
        last = now
        on = f" on {now.node}" if now.node else ""
        why = f": {now.reason}" if now.reason else ""
        move(f"Job {now.id} is {now.state}{on}{why}", f"{now.state}{on}")

    try:
        with status() as move:
            client.jobs.wait(job.id, timeout=timeout, on_change=see)
    except KeyboardInterrupt:
        note(f"Detached: the job goes on. Come back with `cyxwiz jobs result {job.id} --wait`.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except CyxwizError:
        if json:
            emit(last.raw)
        raise
    prediction = client.jobs.result(job.id)
    if json:
        emit({**last.raw, "result": prediction.as_json()})
    else:
        show_prediction(prediction)


def _describe(job: Job) -> None:
    facts = [
        ("state", job.state),
        ("reason", job.reason),
        ("model", _model(job)),
        ("class", job.hardware_class),
        ("queue", job.queue),
        ("node", job.node),
        ("device", job.device),
        ("attempts", job.attempts),
        ("created", clock(job.created_at)),
        ("waited", _seconds(job.waited_seconds)),
        ("ran", _seconds(job.ran_seconds)),
    ]
    table(("JOB", job.id), facts)


def _seconds(count: float | None) -> str | None:
    return None if count is None else f"{count:.3f} s"


def _model(job: Job) -> str:
    return f"{job.model}@{job.version}" if job.version is not None else job.model
