"""Addresses of the pages for people, below /terminal/."""

from django.urls import path

from terminal import pages

urlpatterns = [
    path("", pages.terminals, name="terminals"),
    path("nodes/<str:name>/", pages.ask, name="terminal-ask"),
    path("<uuid:id>/", pages.terminal, name="terminal"),
    path("<uuid:id>/approve", pages.approve, name="terminal-page-approve"),
    path("<uuid:id>/refuse", pages.refuse, name="terminal-page-refuse"),
    path("<uuid:id>/end", pages.end, name="terminal-page-end"),
    path("<uuid:id>/recording", pages.playback, name="terminal-playback"),
]
