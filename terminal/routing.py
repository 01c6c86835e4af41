"""Addresses of websockets."""

from django.urls import path

from terminal.consumers import websocket

urlpatterns = [path("ws/terminal/<uuid:session_id>/", websocket)]
