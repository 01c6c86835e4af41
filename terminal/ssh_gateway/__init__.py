"""Terminals by plain ssh: `ssh -p 2222 <user>+<node>@host`. Its own process (`manage.py ssh_gateway`), for paramiko
has a thread for each connection. It asks the same services for the same sessions as the websocket does."""
