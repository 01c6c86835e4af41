#!/bin/sh
# Joins once, then runs; a container that starts again finds that it has joined.
set -eu
home=/var/lib/cyxwiz-node
[ -e "$home/node.json" ] || python -m workers join "$CYXWIZ_URL" --home "$home"
exec python -m workers run --home "$home"
