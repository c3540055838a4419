"""A run told to people: one HTML file with its pictures inside."""

from nearfar.report.facts import Change, Grid, GridRow, MapPoint, Report, Retained, Score, StepPoint, System, Tile
from nearfar.report.page import render, write_report
from nearfar.report.projection import project
from nearfar.report.results import Found, Searched, write_results

__all__ = [
    "Change",
    "Found",
    "Grid",
    "GridRow",
    "MapPoint",
    "Report",
    "Retained",
    "Score",
    "Searched",
    "StepPoint",
    "System",
    "Tile",
    "project",
    "render",
    "write_report",
    "write_results",
]
