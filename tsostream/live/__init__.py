"""A run is watched from outside: its files are followed while they grow, in a terminal or as a page.

Nothing here talks to the run: it costs the run nothing but the pages of memory its files have in the cache.
"""
