"""What a list of jobs can be narrowed by."""

from __future__ import annotations

import django_filters

from jobs.models import Job
from jobs.states import JobState


class JobFilter(django_filters.FilterSet):
    state = django_filters.MultipleChoiceFilter(choices=[(state, state) for state in JobState])
    model = django_filters.CharFilter(field_name="version__model__name")
    node = django_filters.CharFilter(field_name="node__name")

    class Meta:
        model = Job
        fields = ["state", "model", "hardware_class", "node"]
