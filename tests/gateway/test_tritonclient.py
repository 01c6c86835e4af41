"""A stock tritonclient, in its default settings, finds what it looks for."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from protocol.tensors import TensorSpec
from tests.gateway.node import echo
from tests.waiting import until


@pytest.fixture
def client(server):
    client = triton.InferenceServerClient(server.address)
    yield client
    client.close()


@pytest.fixture
def headers(key):
    return {"Authorization": f"Bearer {key}"}


def image(values, binary=True):
    values = np.asarray(values, dtype=np.float32)
    tensor = triton.InferInput("image", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def test_health(client, headers, deployed):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo", headers=headers)
    assert client.is_model_ready("echo", "3", headers=headers)
    assert not client.is_model_ready("echo", "4", headers=headers)
    assert not client.is_model_ready("other", headers=headers)


def test_metadata(client, headers, deployed):
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
    assert client.get_model_metadata("echo", headers=headers) == {
        "name": "echo",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "image_out", "datatype": "FP32", "shape": [-1, 4]}],
    }
    assert client.get_model_config("echo", headers=headers)["input"] == [
        {"name": "image", "data_type": "TYPE_FP32", "dims": [-1, 4]}
    ]
    index = client.get_model_repository_index(headers=headers)
    assert index == [{"name": "echo", "version": "3", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("outputs", [None, True, False])
def test_inference(client, headers, deployed, binary_input, outputs):
    """Binary and JSON tensors, both ways; by default all is binary."""
    sent = np.arange(8, dtype=np.float32).reshape(2, 4) / 7
    wanted = None if outputs is None else [triton.InferRequestedOutput("image_out", binary_data=outputs)]
    result = client.infer("echo", [image(sent, binary_input)], outputs=wanted, request_id="r1", headers=headers)
    np.testing.assert_array_equal(result.as_numpy("image_out"), sent)
    response = result.get_response()
    assert response["id"] == "r1"
    assert response["model_name"] == "echo"
    assert response["model_version"] == "3"
    assert ("data" in response["outputs"][0]) == (outputs is False)


def test_text_tensors(client, headers, control, node):
    replica = str(uuid.uuid4())
    node.answers[replica] = echo
    spec, out = TensorSpec("text", "BYTES", [-1]), TensorSpec("text_out", "BYTES", [-1])
    control.route("words", node, [replica], inputs=[spec], outputs=[out])
    until(lambda: client.is_model_ready("words", headers=headers))
    for binary in (True, False):  # (tritonclient writes into the headers that it is given, hence the copy)
        tensor = triton.InferInput("text", [2], "BYTES")
        tensor.set_data_from_numpy(np.array([b"gr\xc3\xbc\xc3\x9fe", b""], dtype=np.object_), binary_data=binary)
        wanted = [triton.InferRequestedOutput("text_out", binary_data=binary)]
        answer = client.infer("words", [tensor], outputs=wanted, headers=dict(headers)).as_numpy("text_out")
        assert [v if isinstance(v, bytes) else v.encode() for v in answer] == [b"gr\xc3\xbc\xc3\x9fe", b""]


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_compressed_both_ways(client, headers, deployed, packing):
    sent = np.zeros((500, 4), dtype=np.float32)
    result = client.infer(
        "echo",
        [image(sent)],
        headers=headers,
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    np.testing.assert_array_equal(result.as_numpy("image_out"), sent)


def test_statistics(client, headers, deployed):
    client.infer("echo", [image([[1, 2, 3, 4]])], headers=headers)
    for stats in (
        client.get_inference_statistics("echo", headers=headers),
        client.get_inference_statistics(headers=headers),
    ):
        (model,) = stats["model_stats"]
        assert model["inference_count"] == 1
        assert model["inference_stats"]["success"]["count"] == 1
        assert model["inference_stats"]["compute_infer"]["ns"] == 50_000


def test_errors_are_readable(client, headers, deployed):
    with pytest.raises(InferenceServerException, match=r"Input 'image' has the shape \[1, 3\]; the model takes"):
        client.infer("echo", [image([[1, 2, 3]])], headers=headers)
    with pytest.raises(InferenceServerException, match="no deployment named 'other'"):
        client.infer("other", [image([[1, 2, 3, 4]])], headers=headers)
    with pytest.raises(InferenceServerException, match="An API key is needed"):
        client.infer("echo", [image([[1, 2, 3, 4]])])
    with pytest.raises(InferenceServerException, match="by starting and stopping deployments"):
        client.load_model("echo", headers=headers)
