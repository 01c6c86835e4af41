"""What a list of models can be narrowed by."""

from __future__ import annotations

import django_filters
from django.db.models import Q, QuerySet

from models_registry.formats import BY_NAME
from models_registry.models import Model


class ModelFilter(django_filters.FilterSet):
    name = django_filters.CharFilter()
    search = django_filters.CharFilter(method="find", label="A part of the name or the description.")
    format = django_filters.ChoiceFilter(
        field_name="versions__format", distinct=True, choices=[(name, name) for name in BY_NAME]
    )
    ordering = django_filters.OrderingFilter(fields=["name", "created_at"])

    class Meta:
        model = Model
        fields = ["name"]

    def find(self, models: QuerySet[Model], name: str, text: str) -> QuerySet[Model]:
        return models.filter(Q(name__icontains=text) | Q(description__icontains=text))
