"""Laws of spend of all shapes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from exeunt.costs.mean_cost import MeanCostDistribution


@st.composite
def distributions(draw, most_exits=8, most_count=1000):
    m = draw(st.integers(1, most_exits))
    counts = draw(st.lists(st.integers(0, most_count), min_size=m, max_size=m))
    steps = draw(st.lists(st.floats(0.05, 5), min_size=m, max_size=m))
    unit = 10.0 ** draw(st.integers(-6, 13))
    return MeanCostDistribution(counts, np.cumsum(steps) * unit)
