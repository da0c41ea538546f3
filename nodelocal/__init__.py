"""nodelocal: the caching forwarder that runs on every node."""
