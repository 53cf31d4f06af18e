"""P-values and confidence intervals: what guarantees rest on."""
