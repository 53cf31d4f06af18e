"""Live models of a cascade: services and functions that are asked, and paid, input by input."""

from exeunt.live.function_model import FeatureModel, FunctionModel
from exeunt.live.http_model import HTTPModel
from exeunt.live.live_cascade import LiveCascade
from exeunt.live.openai_compatible import OpenAICompatible
from exeunt.live.text_encoder import TextEncoder

__all__ = ["FeatureModel", "FunctionModel", "HTTPModel", "LiveCascade", "OpenAICompatible", "TextEncoder"]
