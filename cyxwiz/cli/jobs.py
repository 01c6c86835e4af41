"""`cyxwiz jobs …`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyxwiz.cli.exit_codes import ExitCode
from cyxwiz.cli.output import age, clock, emit, note, say, size, table
from cyxwiz.cli.placement import show_why_not
from cyxwiz.cli.predict import show as show_prediction
from cyxwiz.cli.session import Json, OptionalInputs, Options, Outputs, Timeout, connect, model_and_version, options

if TYPE_CHECKING:
    from cyxwiz.client import Client
    from cyxwiz.jobs import Job

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run a model once over some inputs.")
Id = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Id of the job.")]
Save = Annotated[
    Path | None, typer.Option(metavar="FILE", show_default=False, help="Where the result over a data set goes.")
]
Limit = Annotated[int, typer.Option("-n", min=1, help="How many, the newest first.")]


@app.command()
def run(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", show_default=False)],
    input: OptionalInputs = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            show_default=False,
            help="Over every row of a .npz, .jsonl or .csv file, in place of --input.",
        ),
    ] = None,
    save: Save = None,
    result_format: Annotated[
        str | None, typer.Option(metavar="npz|jsonl", show_default=False, help="Of the result over a data set.")
    ] = None,
    chunk_rows: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Rows of a data set in one run.")
    ] = None,
    hardware_class: Annotated[
        str | None, typer.Option(metavar="CLASS", show_default=False, help="On such a device: cpu, cuda-24g, …")
    ] = None,
    output: Outputs = None,
    option: Options = None,
    run_timeout: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", show_default=False, help="It fails if it runs longer.")
    ] = None,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait/--no-wait", show_default=False, help="Wait for the result; over a data set that is the default."
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", show_default=False, help="Wait no longer than this.")
    ] = None,
    json: Json = False,
) -> None:
    """Submit a job.

    Example: cyxwiz jobs run digits --input image=@images.npy --wait
    """
    from cyxwiz.cli.inputs import read_inputs

    name, version = model_and_version(model)
    if bool(input) == bool(dataset):
        raise typer.BadParameter("give either --input NAME=VALUE, or --dataset FILE")
    inputs, given = read_inputs(input or []), options(option or [])
    with connect(context) as client:
        if dataset is None:
            job = client.jobs.submit(
                name,
                inputs,
                version=version,
                hardware_class=hardware_class,
                outputs=output or (),
                options=given,
                timeout_seconds=run_timeout,
            )
        else:
            job = client.jobs.submit_over(
                name,
                _upload(client, dataset),
                version=version,
                hardware_class=hardware_class,
                outputs=output or (),
                options=given,
                timeout_seconds=run_timeout,
                chunk_rows=chunk_rows,
                result_format=result_format,
            )
        if wait if wait is not None else dataset is not None:
            save = save or (Path(f"{dataset.stem}-result.{job.result_format}") if dataset else None)
            if timeout is None and dataset is None:
                timeout = 600.0
            _wait(client, job, timeout=timeout, json=json, save=save)
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
    save: Save = None,
    json: Json = False,
) -> None:
    """Print the result of a job that succeeded; over a data set, save it.

    Example: cyxwiz jobs result 0b6e… --json
    """
    with connect(context) as client:
        job = client.jobs.wait(id, timeout=timeout) if wait else client.jobs.get(id)
        if job.rows_total is not None:
            _save(client, job, save or Path(f"{job.id}.{job.result_format}"), json=json)
            return
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


def _upload(client: Client, dataset: Path) -> str:
    from cyxwiz.cli.progress import upload_bar

    with upload_bar(dataset.name) as progress:
        return client.datasets.upload(dataset, progress=progress).id


def _save(client: Client, job: Job, path: Path, *, json: bool) -> None:
    client.jobs.download(job.id, path)
    if json:
        emit({**job.raw, "saved": str(path)})
    else:
        say(f"{path}: {job.rows_total} rows.")


def _wait(client: Client, job: Job, *, timeout: float | None, json: bool, save: Path | None) -> None:
    from cyxwiz.cli.progress import status
    from cyxwiz.errors import CyxwizError

    last = job

    def see(now: Job) -> None:
        nonlocal last
        last = now
        on = f" on {now.node}" if now.node else ""
        why = f": {now.reason}" if now.reason else ""
        rows = f", {now.rows_done} of {now.rows_total} rows" if now.rows_total else ""
        move(f"Job {now.id} is {now.state}{on}{why}{rows if now.rows_done else ''}", f"{now.state}{on}{rows}")

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
    if last.rows_total is not None and save is not None:
        _save(client, last, save, json=json)
        return
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
        ("memory, estimated", size(job.estimated_bytes)),
        ("memory, promised", _size(job.allocated_bytes)),
        ("memory, measured now", _size(job.device_memory_bytes or job.memory_bytes)),
        ("memory, measured peak", _size(job.device_peak_bytes or job.peak_bytes)),
        ("rows", f"{job.rows_done} of {job.rows_total}" if job.rows_total is not None else None),
        ("created", clock(job.created_at)),
        ("waited", _seconds(job.waited_seconds)),
        ("ran", _seconds(job.ran_seconds)),
    ]
    table(("JOB", job.id), facts)
    if job.why_not:
        say()
        show_why_not(job.why_not)


def _size(bytes_: int | None) -> str | None:
    return None if bytes_ is None else size(bytes_)


def _seconds(count: float | None) -> str | None:
    return None if count is None else f"{count:.3f} s"


def _model(job: Job) -> str:
    return f"{job.model}@{job.version}" if job.version is not None else job.model
