#!/bin/sh
# Puts the passwords, which come as files, into the addresses that the settings want, then runs the command.
set -eu
DATABASE_URL="postgres://cyxwiz:$(cat "$POSTGRES_PASSWORD_FILE")@postgres:5432/cyxwiz"
REDIS_URL="redis://:$(cat "$REDIS_PASSWORD_FILE")@redis:6379/0"
export DATABASE_URL REDIS_URL
exec "$@"
