"""Every figure of the course, drawn by code."""
