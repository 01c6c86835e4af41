"""What a restart of PostgreSQL left in the pool is thrown away before it can fail a request. Django's own setting for
that, CONN_HEALTH_CHECKS, has the pool wait longer before each further one that it tries: some seconds for two."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base
from psycopg import OperationalError
from psycopg_pool import ConnectionPool


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Called for every request, for what is given back after it."""
        connection = super().get_new_connection(conn_params)
        try:
            ConnectionPool.check_connection(connection)
        except OperationalError:
            self.pool.putconn(connection)
            self.pool.check()  # all that are there
            connection = super().get_new_connection(conn_params)
        return connection
