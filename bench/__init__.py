"""Load tests of kdns, and of whatever other server is found beside it."""
