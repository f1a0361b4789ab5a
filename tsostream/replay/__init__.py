"""Exposures come again: into a directory at their own pace, or as regression cases with stored rows."""
