"""CUDA C kernels (compiled when they are first needed), the module that launches them, and their NumPy twins."""
