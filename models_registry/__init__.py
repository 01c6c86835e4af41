"""Models, their immutable versions, and the files these are made of."""
