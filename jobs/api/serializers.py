"""Shapes of jobs in the REST API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts.known_fields import KnownFields
from jobs import queueing
from jobs.models import Dataset, Job, JobEvent
from jobs.states import JobState
from nodes.api.placement import WhyNotSerializer
from protocol import names
from protocol.datasets import CHUNK_ROWS, MOST_CHUNK_ROWS, RESULT_FORMATS
from protocol.hardware import CLASSES
from protocol.tensors import DATATYPES

MOST_TIMEOUT_SECONDS = 7 * 24 * 3600


class JobSerializer(serializers.ModelSerializer[Job]):
    model = serializers.CharField(source="version.model.name", read_only=True)
    version = serializers.IntegerField(source="version.number", read_only=True)
    queue = serializers.SerializerMethodField(help_text="The Celery queue in which its doorbell rings.")
    node = serializers.CharField(source="node.name", default=None, read_only=True)
    device = serializers.CharField(source="device.name", default=None, read_only=True)
    waited_seconds = serializers.SerializerMethodField(help_text="From submission to the start of the last attempt.")
    ran_seconds = serializers.SerializerMethodField(help_text="How long the last attempt took.")
    estimated_bytes = serializers.IntegerField(
        read_only=True, help_text="Of the memory of a device of its class, guessed from files and options."
    )
    rows_total = serializers.IntegerField(read_only=True, allow_null=True, help_text="Of a job over a data set.")
    result_format = serializers.SerializerMethodField(help_text="Of a job over a data set.")

    class Meta:
        model = Job
        fields = [
            "id",
            "model",
            "version",
            "hardware_class",
            "queue",
            "state",
            "reason",
            "error_code",
            "node",
            "device",
            "attempts",
            "estimated_bytes",
            "allocated_bytes",
            "memory_bytes",
            "peak_bytes",
            "device_memory_bytes",
            "device_peak_bytes",
            "options",
            "timeout_seconds",
            "dataset",
            "rows_done",
            "rows_total",
            "result_format",
            "created_at",
            "started_at",
            "finished_at",
            "waited_seconds",
            "ran_seconds",
        ]
        read_only_fields = fields

    def get_queue(self, job: Job) -> str:
        return names.class_queue(job.hardware_class)

    def get_result_format(self, job: Job) -> str | None:
        return job.over_rows["result_format"] if job.over_rows else None

    def get_waited_seconds(self, job: Job) -> float | None:
        return (job.started_at - job.created_at).total_seconds() if job.started_at else None

    def get_ran_seconds(self, job: Job) -> float | None:
        if job.started_at is None or job.finished_at is None:
            return None
        return (job.finished_at - job.started_at).total_seconds()


class JobEventSerializer(serializers.ModelSerializer[JobEvent]):
    node = serializers.CharField(source="node.name", default=None, read_only=True)

    class Meta:
        model = JobEvent
        fields = ["at", "came_from", "went_to", "reason", "node", "fence"]
        read_only_fields = fields


class JobDetailSerializer(JobSerializer):
    why_not = serializers.SerializerMethodField(
        help_text="While it is queued: a row for each node that you may use, unless one is about to take it."
    )
    events = JobEventSerializer(many=True, read_only=True, help_text="Every move, newest first.")

    class Meta(JobSerializer.Meta):
        fields = [*JobSerializer.Meta.fields, "why_not", "events"]
        read_only_fields = fields

    @extend_schema_field(WhyNotSerializer(many=True))
    def get_why_not(self, job: Job) -> Any:
        rows = queueing.rows(job) if job.state == JobState.QUEUED else []
        return WhyNotSerializer(rows, many=True).data


class TensorDataSerializer(serializers.Serializer[Any]):
    """Of the Open Inference Protocol."""

    name = serializers.CharField()
    datatype = serializers.ChoiceField(choices=DATATYPES)
    shape = serializers.ListField(child=serializers.IntegerField(min_value=0))
    data = serializers.JSONField(help_text="Flat or nested, row-major.")  # type: ignore[assignment]


class OutputNameSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()


class ResultSerializer(serializers.Serializer[Any]):
    """An Open Inference Protocol response."""

    model_name = serializers.CharField()
    model_version = serializers.CharField()
    id = serializers.CharField()
    outputs = TensorDataSerializer(many=True)


@extend_schema_field(TensorDataSerializer(many=True))
class InputsField(serializers.Field[Any, Any, Any, Any]):
    """Has been read by the parser already."""

    def to_internal_value(self, data: Any) -> Any:
        return data


@extend_schema_field(OutputNameSerializer(many=True))
class OutputsField(serializers.Field[Any, Any, Any, Any]):
    """The parser has put them into the inputs: together they are one request."""


class WorkSerializer(KnownFields):
    """What all new jobs have."""

    model = serializers.CharField(max_length=63)
    version = serializers.IntegerField(min_value=1, required=False, help_text="The newest, if left out.")
    hardware_class = serializers.ChoiceField(
        choices=CLASSES, required=False, help_text="If left out, the cheapest of which a node can take it."
    )
    options = serializers.DictField(required=False, help_text='For the runtime, as {"threads": 2}.')
    timeout_seconds = serializers.IntegerField(
        min_value=1,
        max_value=MOST_TIMEOUT_SECONDS,
        default=600,
        help_text="For loading and running, once the node has the model.",
    )


class NewJobSerializer(WorkSerializer):
    inputs = InputsField()
    outputs = OutputsField(required=False, help_text="All, if left out.")


class NewJobOverRowsSerializer(WorkSerializer):
    dataset = serializers.UUIDField(help_text="As POST /api/v1/jobs/datasets/ gave it.")
    outputs = serializers.ListField(child=OutputNameSerializer(), required=False, help_text="All, if left out.")
    chunk_rows = serializers.IntegerField(
        min_value=1, max_value=MOST_CHUNK_ROWS, default=CHUNK_ROWS, help_text="How many rows go into one run."
    )
    result_format = serializers.ChoiceField(
        choices=RESULT_FORMATS, required=False, help_text="If left out, npz for an npz and jsonl for the others."
    )


class DatasetSerializer(serializers.ModelSerializer[Dataset]):
    sha256 = serializers.CharField(source="blob_id", read_only=True)
    size_bytes = serializers.IntegerField(source="blob.size_bytes", read_only=True)

    class Meta:
        model = Dataset
        fields = ["id", "format", "rows", "columns", "filename", "sha256", "size_bytes", "created_at"]
        read_only_fields = fields
