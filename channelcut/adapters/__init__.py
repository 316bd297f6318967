"""Where models come from: other libraries, files of the user's, and saved results."""

from channelcut.adapters.sources import Source, open_source

__all__ = ["Source", "open_source"]
