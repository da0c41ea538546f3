"""Messages: what a packet asks, what a response looks like, and the table of finished responses. Pure."""
