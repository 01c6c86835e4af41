"""Terminals on nodes: who may open or watch one, the websocket to it, its recording and its audit. The bytes never
touch the database: they go from the node through Redis to the websocket (see docs/terminal.md)."""
