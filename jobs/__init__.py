"""Jobs: one run of a model over given inputs, then done."""
