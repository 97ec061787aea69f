"""labelblk: 64-bit labels in blocks."""
