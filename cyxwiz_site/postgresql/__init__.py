"""Django's PostgreSQL, for servers that are started anew."""
