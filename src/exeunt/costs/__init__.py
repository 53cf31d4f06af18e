"""What an answer costs at each exit, budgets as people write them, and the exact distribution of a mean cost."""
