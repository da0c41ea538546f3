"""Listeners: datagrams and streams in, datagrams and streams out. Knows framing and sockets, not content."""
