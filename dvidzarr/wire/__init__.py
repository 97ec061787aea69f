"""Pure codecs between bytes on the wire and arrays. Nothing here knows stores, versions or HTTP."""
