"""The figures of the papers, from files and models at hand; each as vector (PDF) and picture (PNG)."""
