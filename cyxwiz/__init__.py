"""The client: Python SDK and the `cyxwiz` command. Talks to the API only; imports nothing else of CyxWiz."""
