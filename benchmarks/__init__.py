"""How fast dvidzarr is beside others that read and write the same chunks. See README.md."""
