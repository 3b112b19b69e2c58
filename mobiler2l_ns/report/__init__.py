"""report.html: what a run has come to, on one page that needs nothing else.

``facts`` are collected from the run's pipeline (``measure``, ``coverage``) and its log (``history``), and become a page
(``page``, ``charts``); an export adds its ``packages`` later.
"""

NAME = "report.html"
"""Of the page, beside a run's config.yml."""
