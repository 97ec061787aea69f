"""keyvalue: a versioned map from text to bytes."""
