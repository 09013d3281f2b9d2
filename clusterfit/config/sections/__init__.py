"""Sections of the run file that decide a result, by what they are about."""
