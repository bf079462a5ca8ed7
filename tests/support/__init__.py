"""Helpers that several folders of tests use; their fixtures are registered in tests/conftest.py."""
