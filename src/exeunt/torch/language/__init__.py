"""Language models with exits: decoders that answer token by token, and leave early where a token is easy."""

from exeunt.torch.language.exits import DecoderWithExits
from exeunt.torch.language.generation import Continuation
from exeunt.torch.language.model import GeneratedText, LanguageModel

__all__ = ["Continuation", "DecoderWithExits", "GeneratedText", "LanguageModel"]
