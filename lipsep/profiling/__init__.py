"""What a model costs: parameters, multiply-accumulates, latency, memory."""

from lipsep.profiling.counting import MacCounts, Macs, Parameters, count_macs, count_parameters, example_inputs

__all__ = ["MacCounts", "Macs", "Parameters", "count_macs", "count_parameters", "example_inputs"]
