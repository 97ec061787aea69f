"""Values that every other layer speaks in: boxes, lineages, ids, errors, settings."""
