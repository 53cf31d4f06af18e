"""What is said at an exit: its own answer, or that of all exits asked so far."""

from exeunt.answer.kinds import Answer, OwnAnswer, answer_from_dict
from exeunt.answer.pooled import PooledAnswer

__all__ = ["Answer", "OwnAnswer", "PooledAnswer", "answer_from_dict"]
