"""A whole CyxWiz on one machine, for trying out, for development and for the end-to-end tests.

It prepares an environment and starts the same programs that a production machine would run. It never touches the
database itself and talks to what it started only as anybody would: over the API.
"""
