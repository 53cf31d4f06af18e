"""Records of requests that a cheap model answers well where their first feature is high."""

import numpy as np

from exeunt.gateway.folder import GatewayModels
from exeunt.gateway.records import Record, Said

MODELS = GatewayModels("large", {"small": 4e-5, "large": 4e-4}, "features", 1e-8, shadow_share=0.2)
WITHOUT_FEATURES = GatewayModels("large", {"small": 4e-5, "large": 4e-4})


def records(n, seed=0, *, scores=True, of_users=0):
    """Return n shadow records. `of_users`: how many users they come from; 0 for requests that nothing links."""
    rng = np.random.default_rng(seed)
    features = np.float32(rng.normal(size=(n, 3)))
    easy = 1 / (1 + np.exp(-4 * features[:, 0]))
    small, large = rng.random(n) < easy, rng.random(n) < 0.9
    score = np.round(np.clip(easy + rng.normal(0, 0.1, n), 0, 1), 2)
    tokens = rng.integers(10, 41, n)
    made = []
    for row in range(n):
        said = {
            "small": Said(tokens[row] * 1e-6, float(score[row]) if scores else None, float(small[row])),
            "large": Said(tokens[row] * 1e-5, None, float(large[row])),
        }
        made.append(
            Record(
                float(row), "shadow", "shop", f"{row:032x}", f"c{row}", f"u{row % of_users}" if of_users else "", said,
                features=tuple(features[row].tolist()),
            )
        )  # fmt: skip
    return made
