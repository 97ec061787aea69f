"""Connections and processes, the way of a request, and the routes above the instances."""
