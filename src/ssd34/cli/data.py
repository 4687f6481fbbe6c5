"""``ssd34 data``: look at data sets and change their form."""

from __future__ import annotations

import click

from ssd34.cli.data_info import info


@click.group(short_help="Look at data sets, change their form.")
def data() -> None:
    """Look at data sets, change their form.

    COCO, Pascal VOC and YOLO, in folders and zips; which it is is recognised.
    """


for command in (info,):
    data.add_command(command)
