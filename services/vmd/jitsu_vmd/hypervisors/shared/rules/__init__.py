"""Decisions that several kinds share; pure."""
