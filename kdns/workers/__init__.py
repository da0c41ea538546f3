"""Several processes that answer, and one that talks to the API server and feeds them."""
