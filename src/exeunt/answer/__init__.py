"""What is answered at an exit: its own prediction, or that of the ensemble of the exits so far."""

from exeunt.answer.kinds import Answer, EnsembleAnswer, OwnAnswer, answer_from_dict

__all__ = ["Answer", "EnsembleAnswer", "OwnAnswer", "answer_from_dict"]
