"""Django's settings for the quickstart command itself: just enough to be found. What it starts gets the real ones."""

import secrets

SECRET_KEY = secrets.token_hex(32)  # signs nothing
INSTALLED_APPS = ["cyxwiz_site"]
TIME_ZONE = "UTC"  # Django gives it to the environment, and so to what it starts
USE_TZ = True
