"""`cyxwiz predict`, and how predictions are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cyxwiz.cli.output import emit, numbers, say
from cyxwiz.cli.session import Inputs, Json, Name, Outputs, connect

if TYPE_CHECKING:
    from cyxwiz.oip import Prediction

ROWS_SHOWN = 10


def predict(
    context: typer.Context,
    name: Name,
    input: Inputs,
    output: Outputs = None,
    json: Json = False,
) -> None:
    """Ask a deployment.

    Example: cyxwiz predict digits --input image=@images.npy --output label
    """
    from cyxwiz.cli.inputs import read_inputs

    inputs = read_inputs(input)
    with connect(context) as client:
        prediction = client.predict(name, inputs, outputs=output or ())
    if json:
        emit(prediction.as_json())
    else:
        show(prediction)


def show(prediction: Prediction) -> None:
    for tensor in prediction.outputs:
        say(f"{tensor.name}  {tensor.datatype} {tensor.shape}")
        if len(tensor.shape) <= 1:
            say(f"  {numbers(tensor.tolist(), longest=400)}")
            continue
        rows = tensor.tolist()
        for row in rows[:ROWS_SHOWN]:
            say(f"  {numbers(row)}")
        if len(rows) > ROWS_SHOWN:
            say(f"  … and {len(rows) - ROWS_SHOWN} more rows (--json has them all)")
