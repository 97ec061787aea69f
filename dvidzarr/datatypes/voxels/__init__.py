"""Image volumes: DVID's imageblk family (uint8blk, …)."""
