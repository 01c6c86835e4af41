"""What an API key may be limited to. A key without a scope cannot do what it covers; `write` implies `read`."""

INFER = "infer"
# `ssh-keys:write` adds keys that let in whoever holds them, also after the API key was revoked.
AREAS = ("models", "deployments", "jobs", "nodes", "terminal", "ssh-keys")
ALL = (INFER, *(f"{area}:{right}" for area in AREAS for right in ("read", "write")))


def allows(scopes: list[str], wanted: str) -> bool:
    return wanted in scopes or (wanted.endswith(":read") and wanted.replace(":read", ":write") in scopes)
