"""``ssd34 data``: look at data sets and change their form."""

from __future__ import annotations

import click

from ssd34.cli.data_check import check_data
from ssd34.cli.data_convert import convert
from ssd34.cli.data_download import download_published
from ssd34.cli.data_info import info


@click.group(short_help="Look at data sets, find what is wrong with them, fetch published ones.")
def data() -> None:
    """Look at data sets, find what is wrong with them, fetch published ones.

    COCO, Pascal VOC and YOLO, in folders and zips; which it is is recognised.
    """


for command in (info, check_data, convert, download_published):
    data.add_command(command)
