"""Rows that cannot be written, as after a mistake of ours: the database itself refuses."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, models


@contextmanager
def stuck(model: type[models.Model], where: str, *values: object) -> Iterator[None]:
    """Within, no row becomes one of those. PostgreSQL only."""
    table = f"ALTER TABLE {model._meta.db_table}"
    with connection.cursor() as cursor:
        cursor.execute(f"{table} ADD CONSTRAINT stuck CHECK (NOT ({where})) NOT VALID", values)
        try:
            yield
        finally:
            cursor.execute(f"{table} DROP CONSTRAINT stuck")
