"""Coming from CoreDNS and NodeLocal DNSCache: their configuration read, and written as ours."""
