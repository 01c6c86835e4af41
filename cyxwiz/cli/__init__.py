"""The `cyxwiz` command. It asks the SDK and shows what came back; it decides nothing itself.

Data goes to stdout, messages to stderr. Modules import the SDK and Rich inside functions, since `cyxwiz --help` needs
neither.
"""
