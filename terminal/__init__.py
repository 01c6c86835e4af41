"""Terminal sessions on nodes. Empty until they are built; its place in the import order is fixed."""
