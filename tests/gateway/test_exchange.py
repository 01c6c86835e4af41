"""What happens to requests when the far end is slow, silent, lost, or too many ask at once."""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import redis
from django.conf import settings

from gateway.asgi import Gateway
from protocol import frames, names
from protocol.tensors import Tensor
from tests.gateway.conftest import BODY_LIMIT_BYTES, Control
from tests.gateway.node import Node, echo, lose, stay_silent
from tests.waiting import until
from tests.web_server import Server
from tests.with_services import free_port, running, wait_for


def infer(client, value=1.0, name="model", **parameters):
    image = {"name": "image", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}
    return client.post(f"/v2/models/{name}/infer", json={"inputs": [image], "parameters": parameters})


def error(response, status):
    assert response.status_code == status
    return response.json()["error"]


def test_200_callers_at_once_each_get_their_own_answer(server, key, node, deploy):
    deploy(node, [echo, echo])
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx2.Limits(max_connections=200)
    together = threading.Barrier(200)

    def call(number):
        together.wait(30)
        return infer(client, number).json()["outputs"][0]["data"]

    with (
        httpx2.Client(base_url=f"http://{server.address}", headers=headers, limits=limits) as client,
        ThreadPoolExecutor(200) as pool,
    ):
        assert list(pool.map(call, range(200))) == [[float(number)] * 4 for number in range(200)]


def test_a_full_queue(http, node, deploy):
    deploy(node, [stay_silent], queue_limit=2, timeout_seconds=1)
    with ThreadPoolExecutor(2) as pool:
        before = len(node.seen)
        waiting = [pool.submit(infer, http) for _ in range(2)]
        until(lambda: len(node.seen) == before + 2)
        refused = infer(http)
        assert "2 requests waiting per replica" in error(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        assert [error(request.result(), 504) for request in waiting]


def test_a_silent_replica_times_out(http, node, deploy):
    deploy(node, [stay_silent], timeout_seconds=0.2)
    assert "'model' did not answer within 0.2 s" in error(infer(http), 504)


def test_the_caller_may_have_less_patience(http, node, deploy):
    deploy(node, [stay_silent])
    assert "within 0.05 s" in error(infer(http, timeout=50_000), 504)


def test_after_a_time_out_there_is_room_again(http, node, deploy):
    deploy(node, [stay_silent], queue_limit=1, timeout_seconds=0.05)
    for _ in range(3):
        error(infer(http), 504)


def test_a_lost_request_runs_once_more_elsewhere(http, node, deploy):
    route = deploy(node, [lose, lose, echo])
    before = len(node.seen)
    answers = [infer(http) for _ in range(6)]
    # The two that lose may both be picked by one request; then it is told so, and not tried a third time.
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any(answer.status_code == 200 for answer in answers)
    mine = {target.replica_id for target in route.targets}
    tried = [replica for replica, _ in node.seen[before:] if replica in mine]
    assert len(tried) <= 2 * len(answers)


def test_lost_with_one_other_ready_the_answer_is_right(http, node, deploy):
    deploy(node, [lose, echo])
    assert [infer(http, value).json()["outputs"][0]["data"][0] for value in range(4)] == [0, 1, 2, 3]


def test_lost_with_none_else_ready(http, node, deploy):
    deploy(node, [lose])
    refused = infer(http)
    assert "The runner died." in error(refused, 503)
    assert "no other replica ready" in error(refused, 503)
    assert "Retry-After" in refused.headers


def test_a_replica_that_leaves_the_routes_loses_its_requests_to_another(http, control, node, deploy):
    route = deploy(node, [stay_silent])
    with ThreadPoolExecutor(1) as pool:
        before = len(node.seen)
        waiting = pool.submit(infer, http, 5)
        until(lambda: len(node.seen) > before)
        other = str(uuid.uuid4())
        node.answers[other] = echo
        control.route("model", node, [other])
        assert waiting.result(5).json()["outputs"][0]["data"] == [5.0] * 4
    assert route.targets[0].replica_id != other


def test_a_late_answer_reaches_nobody(http, node, deploy):
    held = []

    def hold(replica, request):
        held.append(request)

    deploy(node, [hold], timeout_seconds=0.05)
    error(infer(http, 1), 504)
    until(lambda: held)
    assert error(infer(http, 2), 504)


def test_a_caller_who_hangs_up_ends_the_run(http, node, deploy):
    route = deploy(node, [stay_silent], queue_limit=1)
    before = len(node.cancelled)
    with pytest.raises(httpx2.ReadTimeout):
        infer(http.__class__(base_url=http.base_url, headers=http.headers, timeout=0.2))
    until(lambda: len(node.cancelled) == before + 1)
    assert node.cancelled[-1] == node.last_key[16:]
    assert "within 0.05 s" in error(infer(http, timeout=50_000), 504)  # there is room again
    assert requests_counted(route) == {"requests": 2, "errors": 1, "latencies": 0}


def test_a_run_that_timed_out_is_ended(http, node, deploy):
    deploy(node, [stay_silent])
    before = len(node.cancelled)
    error(infer(http, timeout=50_000), 504)
    until(lambda: len(node.cancelled) == before + 1)
    assert node.cancelled[-1] == node.last_key[16:]


def test_what_is_answered_is_never_cancelled(http, node, deploy):
    deploy(node, [echo])
    deploy(node, [lambda replica, request: frames.Error("run_failed", "It broke.")], name="broken")
    deploy(node, [stay_silent], name="silent")
    before = len(node.cancelled)
    assert infer(http).status_code == 200
    error(infer(http, name="broken"), 500)
    error(infer(http, name="silent", timeout=50_000), 504)
    until(lambda: len(node.cancelled) > before)
    assert len(node.cancelled) == before + 1


def test_an_error_of_the_model_keeps_its_status(http, node, deploy):
    def fail(replica, request):
        return frames.Error("run_failed", "Division by zero in node Mul_3.")

    def strange(replica, request):
        return frames.Error("out_of_memory", "9 GB are not there.")

    deploy(node, [fail])
    assert error(infer(http), 500) == "Division by zero in node Mul_3."
    deploy(node, [strange], name="strange")
    assert error(infer(http, name="strange"), 500) == "9 GB are not there."


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [Tensor("image_out", "FP32", [1, 4], bytes(15))],
        [Tensor("image_out", "FP33", [1, 4], bytes(16))],
        [Tensor("other", "FP32", [1, 4], bytes(16))],
    ],
)
def test_a_broken_answer_of_a_node_is_an_error_not_a_result(http, node, deploy, outputs):
    deploy(node, [lambda replica, request: frames.Reply(outputs=outputs)])
    image = {"name": "image", "datatype": "FP32", "shape": [1, 4], "data": [1] * 4}
    wanted = {"inputs": [image], "outputs": [{"name": "image_out"}]}
    answer = http.post("/v2/models/model/infer", json=wanted)
    assert answer.status_code == 500
    assert "The model gave" in answer.json()["error"]


def test_no_replica_ready_says_why(http, node, deploy):
    deploy(node, [], state="starting", reason="node anna loads it")
    refused = infer(http)
    assert "no replica ready: it is starting (node anna loads it)" in error(refused, 503)
    assert refused.headers["Retry-After"] == "2"


def test_a_stopped_deployment_says_so(http, node, deploy):
    deploy(node, [], state="stopped")
    assert error(infer(http), 503) == "Deployment 'model' is stopped. Start it to use it."


def test_requests_go_to_the_replica_with_the_fewest_waiting(http, node, deploy):
    route = deploy(node, [stay_silent, echo], timeout_seconds=1)
    silent, quick = (target.replica_id for target in route.targets)
    with ThreadPoolExecutor(1) as pool:
        before = len(node.seen)
        first = pool.submit(infer, http)
        until(lambda: len(node.seen) > before)
        if node.seen[before][0] == quick:
            first = pool.submit(infer, http)
            until(lambda: any(replica == silent for replica, _ in node.seen[before:]))
        assert [infer(http).status_code for _ in range(5)] == [200] * 5
        assert first.result().status_code == 504


def test_requests_are_counted_by_the_minute(http, node, deploy):
    route = deploy(node, [echo])
    for _ in range(3):
        infer(http)
    http.post("/v2/models/model/infer", json={"inputs": []})
    assert requests_counted(route) == {"requests": 4, "errors": 1, "latencies": 3}


def requests_counted(route):
    """Once the gateway has written them down."""

    def counts():
        minute = int(time.time()) // 60
        keys = [names.request_counts(route.deployment_id, m) for m in (minute - 1, minute)]
        found = [connection.hgetall(key) for key in keys]
        assert all(connection.ttl(key) > 7000 for key, hash in zip(keys, found, strict=True) if hash)
        return {
            "requests": sum(int(hash.get("requests", 0)) for hash in found),
            "errors": sum(int(hash.get("errors", 0)) for hash in found),
            "latencies": sum(int(n) for hash in found for field, n in hash.items() if field[0] == "l"),
        }

    with redis.Redis.from_url(settings.REDIS_URL, decode_responses=True) as connection:
        until(lambda: counts()["requests"])
        return counts()


def test_redis_goes_and_comes_again(tmp_path):
    """A Redis of its own, ended and started with nothing in it: 503 at once meanwhile, then all is well again."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]

    def redis_server():
        return running(command, subprocess.DEVNULL, subprocess.signal.SIGKILL)

    def answering():
        wait_for(["redis-cli", "-p", str(port), "ping"], tmp_path)
        return Control(redis.Redis.from_url(url), 1)

    gateway = Gateway(redis_url=url, body_limit_bytes=BODY_LIMIT_BYTES, version="0")
    with Server(gateway) as server, httpx2.Client(base_url=f"http://{server.address}") as http, Node(url) as node:
        assert http.get("/v2/health/live").status_code == 200
        assert http.get("/v2/health/ready").status_code == 503
        replicas = {answer: str(uuid.uuid4()) for answer in (echo, stay_silent)}
        node.answers.update({id: answer for answer, id in replicas.items()})
        with redis_server():
            control = answering()
            http.headers["Authorization"] = f"Bearer {(key := control.key())}"
            control.route("model", node, [replicas[echo]])
            control.route("silent", node, [replicas[stay_silent]])
            until(lambda: infer(http).status_code == 200)
            with ThreadPoolExecutor(1) as pool:
                before = len(node.seen)
                under_way = pool.submit(infer, http, name="silent")
                until(lambda: len(node.seen) > before)
                control.redis.shutdown(nosave=True)
                assert "lost" in error(under_way.result(5), 503)
            control.redis.close()
        started = time.monotonic()
        assert "does not answer" in error(infer(http), 503)
        assert time.monotonic() - started < 0.5
        assert http.get("/v2/health/ready").status_code == 503
        with redis_server():
            control = answering()
            until(lambda: infer(http).status_code == 200)  # though Redis has forgotten every key and route
            control.publish_key(key)
            control.route("model", node, [])
            until(lambda: "no replica ready" in infer(http).text)
            control.redis.close()
