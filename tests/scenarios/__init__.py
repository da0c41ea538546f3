"""Replay scenarios of nodelocal: ask, expect what is asked upstream, reply, let time pass, look at the answer."""
