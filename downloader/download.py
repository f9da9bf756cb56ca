"""One download: the files of each release, then the covers of its items, then the account of every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from downloader.items import ItemsRun
from downloader.options import Options, Report, Tell
from downloader.releases import counted, fetch_release
from downloader.web import Web
from ninerec_data.catalog import Entry
from ninerec_data.files import lock
from ninerec_data.home import Home

__all__ = ["download"]


def download(
    home: Home,
    entries: Sequence[Entry],
    options: Options,
    tell: Tell | None = None,
    report: Report | None = None,
) -> Report:
    """Download the parts asked for of some datasets; what is held is not asked for again.

    Every item of a dataset with covers ends in one outcome; the account is written even when this is interrupted.
    Raises UsageError where another download is at work in this home, CheckFailed and MissingData as import does.
    """
    tell = tell or Tell()
    report = report or Report()
    with lock(home.raw / ".download.lock"), ExitStack() as stack:
        web = None if options.offline else Web(options.guard, options.user_agent)
        if web:
            stack.callback(web.close)
        for entry in entries:
            files = fetch_release(web, home, entry, options.parts, tell.file, options.mapping)
            report.counts[entry.name] = counted(files, options.parts)
            report.said += files.said
        pictured = [entry for entry in entries if "image" in entry.modalities]
        if "covers" in options.parts and pictured:
            ItemsRun(home, pictured, options, tell, report, web).run()
    return report
