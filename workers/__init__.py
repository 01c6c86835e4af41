"""The node agent. Imports `protocol` and third-party packages, nothing else of CyxWiz; never Django."""
