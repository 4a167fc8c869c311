"""The authors' names of weights, as ours."""
