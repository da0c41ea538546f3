"""Octets that nobody means well with: what reads them, mutated inputs, and two programs' answers to the same queries."""
