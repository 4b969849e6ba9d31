"""Classifiers as body, pool and head, and any other network made into one."""
