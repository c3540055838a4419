"""Pairs and tasks: reading, writing, splitting, sampling, collating. Import the modules; this page loads nothing."""
