"""Measures what a device does: one module per way of computing on it. All of it runs in a process of its own."""
