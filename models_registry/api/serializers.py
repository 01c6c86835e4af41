"""Shapes of models and versions in the REST API."""

from __future__ import annotations

from typing import Any, cast

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from models_registry import formats, memory
from models_registry.models import MeasuredMemory, Model, Version, VersionFile


class TensorSpecSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    datatype = serializers.CharField(help_text="As the Open Inference Protocol names it: FP32, INT64, BYTES, …")
    shape = serializers.ListField(child=serializers.IntegerField(), help_text="-1 is a dimension of any size.")


class FileSerializer(serializers.ModelSerializer[VersionFile]):
    size_bytes = serializers.IntegerField(source="blob.size_bytes", read_only=True)
    sha256 = serializers.CharField(source="blob.sha256", read_only=True)

    class Meta:
        model = VersionFile
        fields = ["path", "size_bytes", "sha256"]


class MeasuredMemorySerializer(serializers.ModelSerializer[MeasuredMemory]):
    class Meta:
        model = MeasuredMemory
        fields = ["device_kind", "options", "peak_bytes", "ram_peak_bytes", "measured_at"]


class VersionSerializer(serializers.ModelSerializer[Version]):
    model = serializers.CharField(source="model.name", read_only=True)
    platform = serializers.SerializerMethodField(help_text="The format, as the Open Inference Protocol calls it.")
    sha256 = serializers.SerializerMethodField(help_text="Of the version's file; null where it has several.")
    files = FileSerializer(many=True, read_only=True)
    inputs = TensorSpecSerializer(source="metadata.inputs", many=True, read_only=True)
    outputs = TensorSpecSerializer(source="metadata.outputs", many=True, read_only=True)
    metadata = serializers.SerializerMethodField(help_text="What else the file says of itself, by format.")
    estimated_bytes = serializers.SerializerMethodField(
        help_text="Of memory once it is loaded, guessed from the files, with the options as they are by default; null "
        "where nothing runs it."
    )
    measured = serializers.SerializerMethodField(help_text="The most that runners of these files took.")

    class Meta:
        model = Version
        fields = [
            "model",
            "number",
            "format",
            "platform",
            "size_bytes",
            "sha256",
            "files",
            "inputs",
            "outputs",
            "metadata",
            "estimated_bytes",
            "measured",
            "checked_by",
            "refused",
            "created_at",
        ]

    def get_platform(self, version: Version) -> str:
        return memory.platform(version)

    def get_sha256(self, version: Version) -> str | None:
        files = version.files.all()
        return files[0].blob_id if len(files) == 1 else None

    def get_estimated_bytes(self, version: Version) -> int | None:
        return None if version.format in formats.WEIGHTS else memory.estimate_bytes(version, {})

    @extend_schema_field(MeasuredMemorySerializer(many=True))
    def get_measured(self, version: Version) -> Any:
        """Read at once for all versions of the model, as that is what lists show."""
        context = cast("dict[str, Any]", self.context)
        if "measured" not in context:
            contents = Version.objects.filter(model=version.model_id).values("content")
            context["measured"] = list(
                MeasuredMemory.objects.filter(owner=version.model.owner_id, content__in=contents)
            )
        rows = [row for row in context["measured"] if row.content == version.content]
        return MeasuredMemorySerializer(rows, many=True).data

    def get_metadata(self, version: Version) -> dict[str, Any]:
        return {key: value for key, value in version.metadata.items() if key not in ("inputs", "outputs")}


class LatestSerializer(serializers.ModelSerializer[Version]):
    class Meta:
        model = Version
        fields = ["number", "format", "size_bytes", "refused", "created_at"]


class ModelSerializer(serializers.ModelSerializer[Model]):
    latest = serializers.SerializerMethodField(help_text="The newest version; null while there is none.")
    version_count = serializers.SerializerMethodField()

    class Meta:
        model = Model
        fields = ["name", "description", "version_count", "latest", "created_at"]
        read_only_fields = ["name"]

    @extend_schema_field(LatestSerializer(allow_null=True))
    def get_latest(self, model: Model) -> dict[str, Any] | None:
        newest = next(iter(model.versions.all()), None)
        return dict(LatestSerializer(newest).data) if newest else None

    def get_version_count(self, model: Model) -> int:
        return len(model.versions.all())


class NewModelSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="1 to 63 of a-z, 0-9, '-', '_', '.'; no sign at either end.")
    description = serializers.CharField(required=False, allow_blank=True, default="", max_length=10_000)


class UploadSerializer(serializers.Serializer[Any]):
    """The multipart form of an upload."""

    file = serializers.FileField()
    sha256 = serializers.CharField(required=False, help_text="If given, what arrives must have this digest.")
    number = serializers.IntegerField(required=False, help_text="Of the version; default: the next.")
    inputs = serializers.CharField(required=False, help_text="As the parameter of that name.")
    outputs = serializers.CharField(required=False, help_text="As the parameter of that name.")
