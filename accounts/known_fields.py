"""Fields that a serializer does not have are refused: one that was misspelt would be as if it had not been given."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers


class KnownFields(serializers.Serializer[Any]):
    """To be named before the class that a serializer is otherwise."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (strange := sorted(set(data) - set(self.fields))):
            known = ", ".join(self.fields)
            raise serializers.ValidationError(dict.fromkeys(strange, f"There is no such field. Known: {known}."))
        return super().to_internal_value(data)
