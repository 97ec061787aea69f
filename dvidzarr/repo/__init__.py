"""Repos, versions and instances: who owns what, and what may be written where."""
