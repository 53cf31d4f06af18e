"""What is said at an exit: its own answer, or that of all exits asked so far."""

from exeunt.answer.ensemble import EnsembleAnswer
from exeunt.answer.kinds import Answer, OwnAnswer, answer_from_dict

__all__ = ["Answer", "EnsembleAnswer", "OwnAnswer", "answer_from_dict"]
