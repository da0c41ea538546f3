"""kdns: the authoritative DNS server for Kubernetes clusters."""
