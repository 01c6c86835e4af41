"""The web process: Django and the gateway behind one port."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cyxwiz_site.settings")

from django.core.asgi import get_asgi_application

application = get_asgi_application()
