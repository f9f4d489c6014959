"""What `course.py` calls; each file is one tool."""
