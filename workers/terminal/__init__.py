"""Terminals on this node. `terminals` is the agent's side; each session is a process of its own (`__main__`), which
holds the PTY, the ring of output and its own connections to Redis, and is the reaper of all that the shell starts."""
