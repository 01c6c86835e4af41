from django.urls import path

from models_registry.api import views

urlpatterns = [
    path("", views.ModelsView.as_view(), name="models"),
    path("<str:name>/", views.ModelView.as_view(), name="model"),
    path("<str:name>/versions/", views.VersionsView.as_view(), name="versions"),
    path("<str:name>/versions/<int:number>/", views.VersionView.as_view(), name="version"),
    path("<str:name>/versions/<int:number>/file", views.FileView.as_view(), name="version-file"),
]
