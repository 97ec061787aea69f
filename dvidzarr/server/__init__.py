"""The aiohttp application: assembly, the way of a request, and the routes above the instances."""
