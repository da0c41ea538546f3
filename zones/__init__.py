"""kdns zones: Kubernetes objects in, DNS answers out. Pure: no sockets, no clock, no Kubernetes client."""
