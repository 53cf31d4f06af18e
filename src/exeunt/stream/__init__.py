"""What is live is one stream of answered requests, in order of arrival (docs/explanation/live-traffic.md)."""
