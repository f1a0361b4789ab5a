"""From a request to files: configuration, chain, memory plan, scout, and the one task that streams."""
