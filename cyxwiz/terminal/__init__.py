"""Terminals on nodes: asking for one (`sessions`), and carrying one over a websocket (`connection`), as
docs/terminal.md describes it."""
