"""The command line of ``nodelocal``."""

from __future__ import annotations

import click

from kdns.version import VERSION


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="nodelocal")
def main() -> None:
    """DNS for Kubernetes nodes: the caching forwarder of this distribution.

    This version has no commands: kdns, the authoritative server, is what there is to run today.
    """
