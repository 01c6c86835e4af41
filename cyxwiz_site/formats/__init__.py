"""How the admin writes times; Django finds the module of the language by its name."""
