"""The command line: `dvidzarr COMMAND STORE …`, where STORE is a path or the URL of a running server."""
