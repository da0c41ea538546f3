"""Tests of nodelocal, module by module."""
