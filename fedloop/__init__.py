"""The language all rooms of fedloop share: settings, records, imaging, models, uncertainty."""

__version__ = "0.1.0"
