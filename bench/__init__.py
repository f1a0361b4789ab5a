"""Benchmarks: ``python -m bench.stage1``, ``bench.memory``, ``bench.startup``; see docs/benchmarks.md."""
