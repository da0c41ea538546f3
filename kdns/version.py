"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("kdns")
except PackageNotFoundError:  # run from a source tree that was not installed
    VERSION = "0+unknown"
