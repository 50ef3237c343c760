"""The version of this plugin, which is also the version of its distribution."""

__version__ = "1.8.9"
