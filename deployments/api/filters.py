"""What a list of deployments can be narrowed by."""

from __future__ import annotations

import django_filters

from deployments.models import Deployment
from deployments.states import DeploymentState


class DeploymentFilter(django_filters.FilterSet):
    state = django_filters.ChoiceFilter(choices=[(state, state) for state in DeploymentState])
    model = django_filters.CharFilter(field_name="version__model__name")
    node = django_filters.CharFilter(field_name="replicas__node__name", distinct=True)

    class Meta:
        model = Deployment
        fields = ["state", "model", "node", "hardware_class"]
