"""The API, and files."""
