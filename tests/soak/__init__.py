"""Everything together, for long: a cluster that changes, faults at random from a seed, and every answer compared with the truth."""
