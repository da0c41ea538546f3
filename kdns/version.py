"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError, version

from kdns.compiled import IS_COMPILED

try:
    VERSION = version("kdns")
except PackageNotFoundError:  # run from a source tree that was not installed
    VERSION = "0+unknown"

VERSION_TEXT = f"{VERSION} (compiled)" if IS_COMPILED else VERSION
"""The same as people are shown it."""
