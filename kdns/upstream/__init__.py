"""Upstreams: whom to ask what is not ours, and how. Shared by both programs."""
