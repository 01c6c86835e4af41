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
        fence = request.query_params.get("fence", "")
        if not fence.isdecimal():
            raise BadRequest(f"fence must be a whole number, not {fence!r}.")
        node = calling_node(request)
        if leases.expects_file(job_id=job_id, node=node, fence=int(fence)):
            with uploads.received_raw(request._request) as upload:
                leases.finish_with_file(job_id=job_id, node=node, fence=int(fence), incoming=upload.incoming)
        else:
            leases.finish(
                job_id=job_id,
                node=node,
                fence=int(fence),
                body=read_body(request),
                header_bytes=header_length(request),
            )
        return HttpResponse(status=204)


class FailureView(NodeView):
    def post(self, request: Request, job_id: UUID) -> HttpResponse:
        said = messages.decode(read_body(request), messages.JobFailure)
        leases.fail(job_id=job_id, node=calling_node(request), fence=said.fence, failure=said.failure)
        return HttpResponse(status=204)
