"""The web process: the gateway (/v1, /v2), Django (everything else) and the websockets of terminals
behind one port."""

import gc
import os
import sys
import tempfile
import warnings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cyxwiz_site.settings")

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import Resolver404, resolve

from cyxwiz_site.body_limit import BodyLimit
from cyxwiz_site.request_ids import with_request_id
from gateway.asgi import Gateway
from gateway.http import Receive, Scope, Send
from protocol import VERSION
from terminal import routing

# Of WhiteNoise's answers, which are small. What may be large has an asynchronous iterator.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
# Django spools request bodies to the default temporary folder, which on many systems is memory.
tempfile.tempdir = str(settings.FILE_UPLOAD_TEMP_DIR)

gateway = Gateway(redis_url=settings.REDIS_URL, body_limit_bytes=settings.BODY_LIMIT_BYTES, version=VERSION)
django_within_limits = BodyLimit(
    django, limit_bytes=settings.BODY_LIMIT_BYTES, upload_limit_bytes=settings.UPLOAD_LIMIT_BYTES
)


async def http(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"]
    if path.startswith(("/v2/", "/v1/")) or path in ("/v2", "/v1"):
        await gateway(scope, receive, with_request_id(scope, send))
    else:
        await django_within_limits(scope, receive, send)


websockets = URLRouter(routing.urlpatterns)


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """One that we do not know is refused before it opens, which a browser sees as 403."""
    try:
        resolve(scope["path"], "terminal.routing")
    except Resolver404:
        await receive()
        await send({"type": "websocket.close"})
    else:
        await websockets(scope, receive, send)


# Of what threads do, as database queries are, every key at a terminal would wait for 5 ms.
sys.setswitchinterval(0.001)
# What was imported stays: to look at all of it for garbage would halt every terminal and every answer for 100 ms.
gc.collect()
gc.freeze()

application = ProtocolTypeRouter({"http": http, "websocket": websocket})
