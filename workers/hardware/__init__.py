"""What this machine is: one probe per file, each on its own. A probe that fails costs its fields, never the rest."""
