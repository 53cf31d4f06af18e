"""Language models with exits: decoders that answer token by token, and leave early where a token is easy."""

from exeunt.torch.language.draft_plan import DraftPlan
from exeunt.torch.language.drafts import Drafts
from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.generation import Continuation
from exeunt.torch.language.model import LanguageModel
from exeunt.torch.language.summary import GeneratedText

__all__ = ["Continuation", "DecoderWithExits", "DraftPlan", "Drafts", "GeneratedText", "LanguageModel"]
