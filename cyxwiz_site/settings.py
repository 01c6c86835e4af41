"""Settings of the control plane. One file; the values come from the environment (see `docs/settings.md`)."""

import shutil
from pathlib import Path

import dj_database_url

from cyxwiz_site import env
from deployments.states import DeploymentState, ReplicaState
from jobs.states import JobState
from terminal.states import SessionState

BASE_DIR = Path(__file__).resolve().parent.parent
CYXWIZ_HOME = Path(env.text("CYXWIZ_HOME", str(BASE_DIR / ".cyxwiz"))).resolve()

DEBUG = env.flag("DEBUG", False)
SECRET_KEY = env.text("SECRET_KEY")
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS", "")
HTTPS = env.flag("HTTPS", False)

REDIS_URL = env.text("REDIS_URL", "redis://127.0.0.1:6379/0")
# The address at which nodes reach the same Redis, where it differs from ours.
NODE_REDIS_URL = env.text("NODE_REDIS_URL", REDIS_URL)

DATABASES = {"default": dj_database_url.parse(env.text("DATABASE_URL", f"sqlite:///{CYXWIZ_HOME}/db.sqlite3"))}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # IMMEDIATE: a transaction that will write takes the lock at its start, so two never deadlock half-way.
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
    }
else:
    DATABASES["default"]["ENGINE"] = "cyxwiz_site.postgresql"
    # reconnect_timeout: with growing pauses, which after a long outage were longer than anybody waits.
    DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 16, "timeout": 10, "reconnect_timeout": 10}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

BLOBS_DIR = CYXWIZ_HOME / "blobs"
FILE_UPLOAD_TEMP_DIR = CYXWIZ_HOME / "tmp"
STATIC_ROOT = CYXWIZ_HOME / "static"
for folder in (FILE_UPLOAD_TEMP_DIR, STATIC_ROOT):
    folder.mkdir(parents=True, exist_ok=True)
RECORDINGS_DIR = CYXWIZ_HOME / "recordings"
SSH_NODES_DIR = CYXWIZ_HOME / "ssh-nodes"
RECORDING_DAYS = env.number("RECORDING_DAYS", 90)
RECORDING_MOST_BYTES = env.number("RECORDING_MOST_BYTES", 4 * 1024**3)
SSH_GATEWAY_ADDRESS = env.text("SSH_GATEWAY_ADDRESS", "0.0.0.0")  # noqa: S104 - it is a way in
SSH_GATEWAY_PORT = env.number("SSH_GATEWAY_PORT", 2222)
# What uploads leave of the disk to everything else: a database that cannot write is worse than an upload refused.
KEEP_FREE_BYTES = env.number("KEEP_FREE_BYTES", min(shutil.disk_usage(CYXWIZ_HOME).total // 10, 5 * 1024**3))
UPLOAD_LIMIT_BYTES = env.number("UPLOAD_LIMIT_BYTES", 20 * 1024**3)
BODY_LIMIT_BYTES = env.number("BODY_LIMIT_BYTES", 64 * 1024**2)  # every other request, /v2 included
DATA_UPLOAD_MAX_MEMORY_SIZE = BODY_LIMIT_BYTES

INSTALLED_APPS = [
    "cyxwiz_site",
    "cyxwiz_site.admin_site.CyxwizAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "accounts",
    "nodes",
    "models_registry",
    "deployments",
    "jobs",
    "terminal",
]
MIDDLEWARE = [
    "cyxwiz_site.request_ids.RequestIdMiddleware",
    "cyxwiz_site.sane_paths.SanePathMiddleware",
    "cyxwiz_site.outages.OutageMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "cyxwiz_site.content_security.ContentSecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "cyxwiz_site.urls"
ASGI_APPLICATION = "cyxwiz_site.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True  # works before, and without, collectstatic

AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = LOGOUT_REDIRECT_URL = "login"
LOGIN_REDIRECT_URL = "/"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None

TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
FORMAT_MODULE_PATH = ["cyxwiz_site.formats"]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.permissions.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "cyxwiz_site.api.Pages",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "URL_FORMAT_OVERRIDE": None,  # else ?format= could not filter models
    "EXCEPTION_HANDLER": "cyxwiz_site.api.problem",
    "PAGE_SIZE": 50,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "CyxWiz",
    "DESCRIPTION": "Serve machine-learning models on any set of machines. Inference: /v2.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    # Else Swagger would send the address of our schema to a validator in the internet.
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    # Four shapes have a field `state`; without names of ours the schema would call some by a digest.
    "ENUM_NAME_OVERRIDES": {
        "NodeState": "nodes.models.Node.State",
        "DeploymentState": list(DeploymentState),
        "ReplicaState": list(ReplicaState),
        "JobState": list(JobState),
        "TerminalState": list(SessionState),
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.text("LOG_LEVEL", "INFO")},
}
