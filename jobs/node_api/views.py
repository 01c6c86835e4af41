"""What a node says about jobs: I accept, here is the result, it failed. After the last two its memory may be promised
to others: the runner has ended, or ends as soon as the memory is needed."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request

from jobs import leases
from jobs.bodies import header_length, read_body
from models_registry import uploads
from nodes.node_api.views import NodeView, calling_node, message
from protocol import messages
from protocol.errors import BadRequest


class AcceptView(NodeView):
    def post(self, request: Request, job_id: UUID) -> HttpResponse:
        return message(leases.accept(job_id=job_id, node=calling_node(request)))


class ResultView(NodeView):
    def post(self, request: Request, job_id: UUID) -> HttpResponse:
        fence = _number(request, "fence")
        if fence is None:
            raise BadRequest("Say which attempt it was: ?fence=.")
        node = calling_node(request)
        peak = messages.MemoryPeak(
            host_bytes=_number(request, "peak_host_bytes"), device_bytes=_number(request, "peak_device_bytes")
        )
        leases.note_memory(job_id=job_id, node=node, fence=fence, peak=peak)
        if leases.expects_file(job_id=job_id, node=node, fence=fence):
            with uploads.received_raw(request._request) as upload:
                leases.finish_with_file(job_id=job_id, node=node, fence=fence, incoming=upload.incoming, peak=peak)
        else:
            leases.finish(
                job_id=job_id,
                node=node,
                fence=fence,
                body=read_body(request),
                header_bytes=header_length(request),
                peak=peak,
            )
        return HttpResponse(status=204)


class FailureView(NodeView):
    def post(self, request: Request, job_id: UUID) -> HttpResponse:
        said = messages.decode(read_body(request), messages.JobFailure)
        node = calling_node(request)
        leases.note_memory(job_id=job_id, node=node, fence=said.fence, peak=said.peak)
        leases.fail(job_id=job_id, node=node, fence=said.fence, failure=said.failure)
        return HttpResponse(status=204)


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise BadRequest(f"{name} must be a whole number, not {text[:40]!r}.")
    return int(text)
