"""What is answered at an exit: its own answer, that of the best exit so far, or that of their ensemble."""

from exeunt.answer.kinds import Answer, BestAnswer, EnsembleAnswer, OwnAnswer, answer_from_dict

__all__ = ["Answer", "BestAnswer", "EnsembleAnswer", "OwnAnswer", "answer_from_dict"]
