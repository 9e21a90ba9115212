"""The file of the Triton kernels has no examples, and is not imported to look for any.

Where triton is not installed that would fail; where it is, kernels imported before TRITON_INTERPRET is set do not
run on CPU.
"""

collect_ignore = ["hyperfocal/losses/triton_kernels.py"]
