"""Reads and writes of boxes: plans over chunks, and the threads that work them off."""
