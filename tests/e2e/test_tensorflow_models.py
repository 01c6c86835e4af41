"""The digits example in TensorFlow's formats, from upload to answers, through every real part."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.digits import DIGITS, labels, request, until_running

LOAD_SECONDS = 60  # TensorFlow takes three to import, on a busy machine fifteen


@pytest.mark.parametrize(("format", "file"), [("tflite", "digits.tflite"), ("savedmodel", "digits-savedmodel.zip")])
def test_it_is_pushed_deployed_and_asked(api, heldout, format, file):
    images, shown = heldout
    pushed = api.post(f"/api/v1/models/digits-{format}/versions/", files={"file": (file, (DIGITS / file).read_bytes())})
    assert pushed.status_code == 201, pushed.text
    assert pushed.json()["format"] == format
    name = f"digits-{format}"
    made = api.post("/api/v1/deployments/", json={"name": name, "model": name, "options": {"threads": 2}})
    assert made.status_code == 201, made.text
    until_running(api, name, LOAD_SECONDS)
    answer = api.post(f"/v2/models/{name}/infer", json=request(images))
    assert answer.status_code == 200, answer.text
    assert np.mean(labels(answer.json()) == shown) >= 0.97
    wrong = api.post(f"/v2/models/{name}/infer", json=request(images[:, :63]))
    assert (wrong.status_code, "image" in wrong.text) == (400, True)
    api.delete(f"/api/v1/deployments/{name}/")
