"""What an executor takes on this machine: profiles, plans, budgets in milliseconds, benchmarks."""
