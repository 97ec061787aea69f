"""Regions of interest: sets of blocks, kept as spans along x."""
