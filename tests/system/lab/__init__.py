"""A node, its pods, the cluster's DNS and the world outside, each a network namespace with real traffic."""
