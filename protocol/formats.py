"""What kind of thing a model format is."""

# Loading one of these can run code that its author wrote, or reach files by operations of the format itself. So they
# run only on nodes whose owner allows it, within a sandbox that stops both (docs/decisions/007-the-cage.md).
PROGRAM_FORMATS = frozenset({"torchscript", "pt2", "savedmodel"})
PROGRAM_LEVEL = 1
