"""One operation, one file: every form in which it runs, plain PyTorch first."""
