"""nodelocal as three processes: one that owns sockets and rules, one that answers, one that knows the API server."""
