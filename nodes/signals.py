"""News that upper apps connect to in their `apps.py`. Each is sent again until the rows say it was dealt with."""

from django.dispatch import Signal

# Sent with `node` and `heartbeat` (protocol.messages.Heartbeat) inside the request. A receiver returns a dict of
# DesiredState fields: its part of the answer.
heartbeat_received = Signal()

# Sent with `node` when it was silent for longer than its lease: it serves nothing any more, but may come back.
node_offline = Signal()

# Sent with `node` while it has allocations and was silent for longer than lease and grace: place elsewhere what holds
# them. They stay until the node says what it has: it may be cut off, and run on.
node_lost = Signal()

# Sent with `node`, inside a transaction that is about to delete it or a device of it: a receiver locks its rows that
# name the node, before those of nodes and devices are locked.
node_goes = Signal()

# Sent with `user` and `holders`, to name what holds memory. A receiver returns a dict: of these holders of allocations
# those that are this user's -> the nodes.why_not.Stoppable. What others hold is in nobody's answer.
holders_wanted = Signal()

# Sent with `node`, for its page. A receiver returns a dict: the holder of an allocation there -> a nodes.planning.Held.
held_wanted = Signal()
