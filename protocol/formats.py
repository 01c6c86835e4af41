"""What control plane and node must agree on about model formats."""

# Formats whose files are programs: loading or running one can run what its author wrote.
PROGRAMS = frozenset({"torchscript", "pt2", "savedmodel"})
