"""From a query and a set of zones to a response. Pure."""
