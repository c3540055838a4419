"""A run told to people: one HTML file with its pictures inside."""

from nearfar.report.facts import Change, MapPoint, Report, Retained, Score, StepPoint, System
from nearfar.report.page import render, write_report
from nearfar.report.projection import project

__all__ = [
    "Change",
    "MapPoint",
    "Report",
    "Retained",
    "Score",
    "StepPoint",
    "System",
    "project",
    "render",
    "write_report",
]
