"""The node's side of nodelocal: its addresses, the rules that bring queries here, and the lease that ends them."""
