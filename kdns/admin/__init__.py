"""What operators see: metrics, health and readiness over HTTP, and log lines."""
