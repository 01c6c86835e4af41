"""Users and their API keys; who owns what, and who may see it."""
