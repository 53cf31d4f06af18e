"""What an executor takes on this machine: profiles, plans, costs in milliseconds, benchmarks."""
