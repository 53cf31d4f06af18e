"""The version of the package, for the build and for files that say what made them."""

__version__ = "0.1.0rc1"
