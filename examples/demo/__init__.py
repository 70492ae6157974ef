"""The demo: the whole way on real cells, ``python -m examples.demo --out demo``.

cells       the cells: scanpy's own with a known batch effect, or the user's
training    a small model, in seconds
measures    how much of the batch effect is gone
figures     the pictures
demo.R      the R user's way, and what R sees
__main__    the order of events and what is printed
"""
